"""What goes to Datadog, and what the stand-in intake answers, by Datadog's own models.

The intake is ours like the sink, so the two could share a mistake. The models of ``datadog-api-client``
are made from Datadog's specification.
"""

import json
import random
import zlib
from typing import Any

import pytest
import requests
from board_wire import Wire, answer
from datadog_api_client.configuration import Configuration
from datadog_api_client.exceptions import ApiTypeError
from datadog_api_client.model_utils import ModelNormal, validate_and_convert_types
from datadog_api_client.v1.model.api_error_response import APIErrorResponse
from datadog_api_client.v1.model.intake_payload_accepted import IntakePayloadAccepted
from datadog_api_client.v1.model.metrics_payload import MetricsPayload
from datadog_api_client.v1.model.series import Series
from sink_cases import APP_KEY, CLOCK, KEY, OK, an_intake, samples

from espnet.samples import Sample
from espnet.sinks import Outcome
from espnet.sinks.datadog import Datadog


def parsed(body: object, model: type[ModelNormal]) -> Any:
    """The body as that model; raises for a wrong type, a missing field or one that it does not know."""
    assert isinstance(body, dict)
    if unknown := body.keys() - model.attribute_map.values():
        raise ApiTypeError(f"unknown: {unknown}")
    return validate_and_convert_types(body, (model,), ["body"], True, True, Configuration())


def strictly(payload: dict[str, Any]) -> MetricsPayload:
    made = parsed(payload, MetricsPayload)
    for one in payload["series"]:
        parsed(one, Series)
    return made


def sent_by_the_sink(sent: list[Sample]) -> list[tuple[bytes, dict[str, Any]]]:
    """The head and the payload of each request."""
    with Wire(answer(OK, status="202 Accepted")) as wire:
        outcome = Datadog(KEY, APP_KEY, f"http://{wire.address()}").send(sent)
        assert outcome == Outcome(len(sent), status=202)
        pairs = [request.partition(b"\r\n\r\n")[::2] for request in wire.requests["127.0.0.1"]]
    return [(head, json.loads(zlib.decompress(body))) for head, body in pairs]


def test_what_is_sent_is_a_metrics_payload() -> None:
    """Every request is one by Datadog's model, and says what the samples said: nothing more or less."""
    chance = random.Random(1)
    sent = [
        Sample(
            f"esp32.m{chance.randrange(5)}",
            chance.choice([0.0, -0.0, 1e-300, -1.5e300, 21.5, 3.0]),
            CLOCK.now() - chance.randrange(3_000) / 8,
            (f"id:{chance.randrange(50)}", "name:wärme 温🌡", f'q:"\\{chance.randrange(3)}'),
        )
        for _ in range(20_000)
    ]
    told = []
    for _, payload in sent_by_the_sink(sent):
        for series in strictly(payload).series:
            assert series.type == "gauge"
            assert "host" not in series.to_dict()
            told += [
                Sample(series.metric, point.value[1], point.value[0], tuple(series.tags))
                for point in series.points
            ]
    assert sorted(map(repr, told)) == sorted(map(repr, sent))


def test_a_sample_without_tags_is_a_payload_too() -> None:
    """An empty list is a list."""
    ((_, payload),) = sent_by_the_sink(samples(1, ()))
    assert strictly(payload).series[0].tags == []


def test_the_head_is_that_of_the_specification() -> None:
    """Path, key, compression and type of the body, and nobody's name but ours."""
    ((head, _),) = sent_by_the_sink(samples())
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "post /api/v1/series http/1.1"
    fields = dict(line.split(": ", 1) for line in lines[1:])
    assert fields["dd-api-key"] == KEY
    assert fields["dd-application-key"] == APP_KEY
    assert (fields["content-type"], fields["content-encoding"]) == ("application/json", "deflate")
    assert fields["user-agent"].startswith("espnet/")


POINT = [1_750_000_000.0, 21.5]
SERIES = {"metric": "esp32.f", "type": "gauge", "tags": ["id:a"], "points": [POINT]}
MISTAKES: dict[str, object] = {
    "a metric that is a number": {"series": [{**SERIES, "metric": 1}]},
    "tags in one text": {"series": [{**SERIES, "tags": "id:a"}]},
    "a tag that is a number": {"series": [{**SERIES, "tags": [1]}]},
    "a value that is text": {"series": [{**SERIES, "points": [[1.0, "21.5"]]}]},
    "a point of one": {"series": [{**SERIES, "points": [[1.0]]}]},
    "a point of three": {"series": [{**SERIES, "points": [[1.0, 2.0, 3.0]]}]},
    "no points": {"series": [{"metric": "esp32.f"}]},
    "no metric": {"series": [{"points": [POINT]}]},
    "a field of another name": {"series": [{**SERIES, "tag": []}]},
    "no series": {},
    "series in no list": {"series": SERIES},
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_seen(mistake: dict[str, Any]) -> None:
    """This file would notice."""
    strictly({"series": [SERIES]})
    with pytest.raises((TypeError, ValueError, KeyError)):
        strictly(mistake)


def test_the_stand_in_answers_as_the_specification_says() -> None:
    """Yes and no are the models that Datadog's own client would read."""
    with an_intake() as intake:

        def post(body: str, key: str = KEY) -> requests.Response:
            headers = {"DD-API-KEY": key}
            return requests.post(f"{intake.url}/api/v1/series", body, headers=headers, timeout=10)

        yes = post('{"series": []}')
        assert parsed(yes.json(), IntakePayloadAccepted).status == "ok"
        for no in (post("[]"), post('{"series": []}', "another"), post("x" * 600_000)):
            assert parsed(no.json(), APIErrorResponse).errors
            assert no.status_code in (400, 403, 413)
