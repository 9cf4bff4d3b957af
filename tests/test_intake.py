"""The stand-in intake against requests as anybody might send them."""

import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import requests

from espnet.clock import ManualClock
from espnet.simulator.intake import COMPRESSED_BYTES, RAW_BYTES, Answer, Intake

KEY = "0123456789abcdef"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def intake(clock: ManualClock) -> Iterator[Intake]:
    with Intake(KEY, clock=clock, points_each=3, most_series=2) as running:
        yield running


def series(at: float, metric: str = "esp32.f", value: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"metric": metric, "points": [[at, value]], "type": "gauge", "tags": ["id:a"], **more}


def post(
    intake: Intake,
    body: object,
    *,
    path: str = "/api/v1/series",
    key: str | None = KEY,
    encoding: str = "",
) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"DD-API-KEY": key} if key else {}
    if encoding:
        headers["Content-Encoding"] = encoding
    return requests.post(intake.url + path, data, headers=headers, timeout=10)


def test_a_valid_request_is_accepted_and_its_points_are_kept(
    intake: Intake, clock: ManualClock
) -> None:
    """What is valid gets 202 with status ok, and its points can be looked up by metric and tag."""
    answer = post(intake, {"series": [series(clock.now(), value=21.5)]})
    assert (answer.status_code, answer.json()) == (202, {"status": "ok"})
    assert intake.points("esp32.f", "id:a") == [(clock.now(), 21.5)]
    assert intake.points("esp32.f", "id:b") == []
    assert intake.points("esp32.up") == []
    assert (intake.accepted, intake.not_ingested) == (1, 0)


@pytest.mark.parametrize("encoding", ["deflate", "gzip"])
def test_compressed_bodies_are_unpacked(intake: Intake, clock: ManualClock, encoding: str) -> None:
    """Both compressions that Datadog takes are taken."""
    raw = json.dumps({"series": [series(clock.now())]}).encode()
    packed = zlib.compress(raw) if encoding == "deflate" else gzip.compress(raw)
    assert post(intake, packed, encoding=encoding).status_code == 202
    assert intake.accepted == 1


def test_the_key_may_be_in_the_query(intake: Intake, clock: ManualClock) -> None:
    """Old clients name their key in the address."""
    body = {"series": [series(clock.now())]}
    path = f"/api/v1/series?api_key={KEY}"
    assert post(intake, body, path=path, key=None).status_code == 202


@pytest.mark.parametrize("key", [None, "", "wrong", KEY + "0"])
def test_without_the_key_nothing_is_accepted(
    intake: Intake, clock: ManualClock, key: str | None
) -> None:
    """Only the exact key opens, and the answer does not repeat what was tried."""
    answer = post(intake, {"series": [series(clock.now())]}, key=key)
    assert (answer.status_code, answer.json()) == (403, {"errors": ["Forbidden"]})
    assert intake.accepted == 0


def test_other_paths_and_methods_are_refused(intake: Intake, clock: ManualClock) -> None:
    """One path, one method."""
    body = {"series": [series(clock.now())]}
    assert post(intake, body, path="/api/v2/series").status_code == 404
    assert requests.get(intake.url + "/api/v1/series", timeout=10).status_code == 405
    assert intake.accepted == 0


AT = ManualClock().now()
POINT = [AT, 1.0]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"series": [{"metric": "a", "points": [[1, NaN]]}]}',
        b'{"series": [{"metric": "a", "points": [[1, Infinity]]}]}',
        b'{"series": [{"metric": "a", "points": [[1, 1e999]]}]}',
        b'{"series": [{"metric": "a", "points": [[1, ' + b"9" * 400 + b"]]}]}",
        [],
        {},
        {"series": {}},
        {"series": [1]},
        {"series": [{}]},
        {"series": [{"metric": "a"}]},
        {"series": [{"metric": "1a", "points": [POINT]}]},
        {"series": [{"metric": "a-b", "points": [POINT]}]},
        {"series": [{"metric": "é", "points": [POINT]}]},
        {"series": [{"metric": "a" * 201, "points": [POINT]}]},
        {"series": [{"metric": "a", "points": POINT}]},
        {"series": [{"metric": "a", "points": [[AT]]}]},
        {"series": [{"metric": "a", "points": [[AT, "1"]]}]},
        {"series": [{"metric": "a", "points": [[AT, True]]}]},
        {"series": [{"metric": "a", "points": [[AT, None]]}]},
        {"series": [{"metric": "a", "points": [POINT], "type": "histogram"}]},
        {"series": [{"metric": "a", "points": [POINT], "tags": "id:a"}]},
        {"series": [{"metric": "a", "points": [POINT], "tags": [1]}]},
        {"series": [{"metric": "a", "points": [POINT], "host": 1}]},
        {"series": [{"metric": "good", "points": [POINT]}, {"metric": "bad-one", "points": []}]},
    ],
)
def test_what_breaks_the_schema_is_refused_whole(intake: Intake, body: object) -> None:
    """One wrong thing anywhere: 400 with a reason, and nothing of the request is ingested."""
    answer = post(intake, body)
    assert answer.status_code == 400
    assert answer.json()["errors"][0].startswith("Payload is not in the expected format")
    assert intake.accepted == 0


def test_bad_compression_is_refused(intake: Intake, clock: ManualClock) -> None:
    """A body must be what its Content-Encoding says, to its end."""
    raw = json.dumps({"series": [series(clock.now())]}).encode()
    assert post(intake, raw, encoding="deflate").status_code == 400
    assert post(intake, zlib.compress(raw)[:-5], encoding="deflate").status_code == 400
    assert post(intake, raw, encoding="br").status_code == 400
    assert intake.accepted == 0


def test_sizes_are_bounded_before_and_after_unpacking(intake: Intake) -> None:
    """Too large either way is 413, and the client that is still writing gets to read it."""
    bomb = zlib.compress(b" " * (RAW_BYTES + 1))
    assert len(bomb) < COMPRESSED_BYTES
    assert post(intake, bomb, encoding="deflate").status_code == 413
    assert post(intake, b" " * (COMPRESSED_BYTES + 1)).status_code == 413
    just = zlib.compress(b" " * (RAW_BYTES - 14) + b'{"series": []}')
    assert post(intake, just, encoding="deflate").status_code == 202


@pytest.mark.parametrize(
    ("offset_s", "ingested"),
    [(-3_601, False), (-3_600, True), (0, True), (600, True), (601, False)],
)
def test_points_outside_the_window_get_202_and_are_not_ingested(
    intake: Intake, clock: ManualClock, offset_s: float, ingested: bool
) -> None:
    """As Datadog does it: no error, no point; only the counts tell."""
    answer = post(intake, {"series": [series(clock.now() + offset_s)]})
    assert answer.status_code == 202
    assert (intake.accepted, intake.not_ingested) == ((1, 0) if ingested else (0, 1))
    assert len(intake.points("esp32.f")) == intake.accepted


def test_memory_is_bounded_and_the_counts_stay_exact(intake: Intake, clock: ManualClock) -> None:
    """Past its bounds it forgets points and series, never how many there were."""
    for number in range(5):
        points = [[clock.now(), float(n)] for n in range(5)]
        post(intake, {"series": [{"metric": f"m{number}", "points": points}]})
    assert intake.accepted == 25
    assert [name for name, _ in intake.series()] == ["m0", "m1"]
    assert [value for _, value in intake.points("m0")] == [2.0, 3.0, 4.0]


def test_a_script_is_followed_and_then_over(intake: Intake, clock: ManualClock) -> None:
    """Scripted answers come in their order, ingest nothing, and honesty returns after them."""
    body = {"series": [series(clock.now())]}
    busy = Answer(503, b"<html>", content_type="text/html", headers=(("Retry-After", "7"),))
    intake.script([busy, Answer(202, b'{"status": "no"}')])
    first = post(intake, body)
    assert (first.status_code, first.text, first.headers["Retry-After"]) == (503, "<html>", "7")
    assert post(intake, body).json() == {"status": "no"}
    assert intake.accepted == 0
    assert post(intake, body).json() == {"status": "ok"}
    assert intake.accepted == 1
    assert intake.statuses == {503: 1, 202: 2}


def test_a_connection_may_die_after_the_points_were_ingested(
    intake: Intake, clock: ManualClock
) -> None:
    """The case that makes duplicates: accepted, and the client never learns it."""
    intake.script([Answer(close="before")])
    with pytest.raises(requests.ConnectionError):
        post(intake, {"series": [series(clock.now())]})
    assert intake.accepted == 1
    assert intake.requests[-1].status == 0


def test_a_client_that_gives_up_on_a_delay_is_not_ingested(
    intake: Intake, clock: ManualClock
) -> None:
    """A delay ends when the client goes, and the next client is served at once."""
    intake.script([Answer(delay_s=600)])
    raw = json.dumps({"series": [series(clock.now())]}).encode()
    head = (
        f"POST /api/v1/series HTTP/1.1\r\nDD-API-KEY: {KEY}\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", int(intake.url.rpartition(":")[2]))) as client:
        client.sendall(head.encode() + raw)
    assert post(intake, {"series": [series(clock.now(), value=2.0)]}).status_code == 202
    assert intake.points("esp32.f") == [(clock.now(), 2.0)]


def test_every_answer_carries_the_intake_s_own_date(intake: Intake, clock: ManualClock) -> None:
    """Whose clock is wrong can be seen from outside."""
    clock.advance(86_400)
    for status in (202, 400):
        answer = post(intake, {"series": []} if status == 202 else [])
        assert answer.status_code == status
        assert parsedate_to_datetime(answer.headers["Date"]).timestamp() == clock.now()


def test_half_a_request_harms_nobody(intake: Intake, clock: ManualClock) -> None:
    """A client that goes away in mid-body is no error here and no request."""
    with socket.create_connection(("127.0.0.1", int(intake.url.rpartition(":")[2]))) as client:
        client.sendall(b"POST /api/v1/series HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    assert post(intake, {"series": [series(clock.now())]}).status_code == 202
    assert len(intake.requests) == 1
