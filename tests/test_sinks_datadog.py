"""The Datadog sink, with the real library, over real sockets."""

import copy
import json
import logging
import math
import random
import subprocess
import sys
import threading
from collections.abc import Iterator

import datadog
import pytest
from board_wire import Wire, answer, eventually
from sink_cases import APP_KEY, CLOCK, KEY, OK, an_intake, heavy, is_sentence, samples, sink_to

from espnet.errors import SinkError
from espnet.samples import Sample
from espnet.simulator.intake import COMPRESSED_BYTES, Answer, Intake
from espnet.sinks import SEND_S, Outcome, Sink, Verdict
from espnet.sinks.datadog import Datadog


@pytest.fixture
def intake() -> Iterator[Intake]:
    with an_intake() as running:
        yield running


def test_accepted_samples_are_at_the_intake(intake: Intake) -> None:
    """What is said to be accepted arrived: metric, value, time and tags."""
    sink: Sink = sink_to(intake)
    sent = samples(3)
    assert sink.send(sent).accepted == 3
    assert intake.points("esp32.f", "id:a", "name:porch") == [(s.at, s.value) for s in sent]


def test_points_of_one_metric_and_its_tags_share_a_series(intake: Intake) -> None:
    """A request names each metric with its tags once, as a gauge, and no host."""
    kitchen = samples(2, ("id:b", "name:kitchen"))
    sink_to(intake).send([*samples(2), *kitchen, *samples(1)])
    one, two = intake.payload["series"]
    assert (len(one["points"]), len(two["points"])) == (3, 2)
    assert one.keys() == {"metric", "type", "tags", "points"}
    assert one["type"] == "gauge"
    assert two["tags"] == ["id:b", "name:kitchen"]


def test_requests_are_compressed(intake: Intake) -> None:
    """The wire carries deflate."""
    sink_to(intake).send(samples(1000))
    assert intake.requests[-1].headers["content-encoding"] == "deflate"
    assert intake.requests[-1].sent_bytes < 20_000


def test_nothing_to_send_is_no_request(intake: Intake) -> None:
    """No samples, no traffic, no complaint."""
    assert sink_to(intake).send([]) == Outcome(0)
    assert not intake.requests


def test_samples_are_not_changed(intake: Intake) -> None:
    """What the caller gave is what the caller has."""
    sent = samples(3)
    before = copy.deepcopy(sent)
    sink_to(intake).send(sent)
    assert sent == before


def test_the_library_never_backs_off_on_its_own(intake: Intake) -> None:
    """After any number of time-outs the next send is a request (the library would pause for 300 s)."""
    intake.script([Answer(delay_s=600)] * 5)
    sink = sink_to(intake, timeout_s=1.0)
    for _ in range(5):
        assert "did not answer" in sink.send(samples()).reason
    assert sink_to(intake).send(samples()).accepted == 1
    assert len(intake.requests) == 6


def test_what_the_first_requests_delivered_stays_accepted(intake: Intake) -> None:
    """Partial success: exactly the beginning is accepted, and the rest sent again completes it."""
    sent = heavy(150)
    intake.script([Answer(), Answer(), Answer(503)])
    sink = sink_to(intake)
    outcome = sink.send(sent)
    assert 0 < outcome.accepted < len(sent)
    assert 0 < outcome.tried <= len(sent) - outcome.accepted
    assert outcome.status == 503
    assert intake.accepted == outcome.accepted
    assert sink.send(sent[outcome.accepted :]).accepted == len(sent) - outcome.accepted
    assert [len(intake.points("esp32.f", f"n:{n}")) for n in range(150)] == [1] * 150


@pytest.mark.parametrize("seed", range(3))
def test_requests_keep_to_the_limits_of_the_intake(intake: Intake, seed: int) -> None:
    """Many samples, long or foreign tags, digits that do not compress: never 413, each point once."""
    chance = random.Random(seed)
    names = ["".join(chance.choices("aü温🌡", k=40)) for _ in range(200)]
    now = CLOCK.now()
    sent = [
        Sample(
            chance.choice(["esp32.f", "esp32.up", "esp32.poll_seconds"]),
            chance.uniform(-1e300, 1e300),
            now - chance.random() * 60,
            (f"id:{chance.randrange(10**6)}", f"name:{chance.choice(names)}"),
        )
        for _ in range(12_000)
    ]
    assert sink_to(intake).send(sent).accepted == len(sent)
    assert intake.statuses == {202: len(intake.requests)}
    assert intake.accepted == len(sent)
    kept = [(at, v) for m in {s.metric for s in sent} for at, v in intake.points(m)]
    assert sorted(kept) == sorted((s.at, s.value) for s in sent)


def test_what_cannot_be_compressed_keeps_to_the_limits_too(intake: Intake) -> None:
    """The least compressible tags there are: no request is refused for its size."""
    chance = random.Random(1)
    letters = "".join(map(chr, range(33, 127)))
    sent = [
        s
        for n in range(400)
        for s in samples(1, ("t:" + "".join(chance.choices(letters, k=4_000)),))
    ]
    assert sink_to(intake).send(sent).accepted == len(sent)
    assert intake.statuses == {202: len(intake.requests)}
    assert 350_000 < max(request.sent_bytes for request in intake.requests) <= COMPRESSED_BYTES
    assert len(intake.series()) == len(sent)


def test_a_sample_that_no_request_can_carry_is_bad(intake: Intake) -> None:
    """What came before it is delivered, it is named, and what comes after it waits for its turn."""
    chance = random.Random(1)
    letters = "".join(map(chr, range(33, 127)))
    sink = sink_to(intake)
    for tag in ("x" * 5_000_000, "".join(chance.choices(letters, k=600_000))):
        outcome = sink.send([*samples(3), Sample("esp32.f", 1.0, CLOCK.now(), (tag,)), *samples(3)])
        assert (outcome.accepted, outcome.verdict, outcome.tried) == (3, Verdict.BAD, 1)
        assert outcome.reason == "A sample of esp32.f is too long for any request."
    assert intake.statuses == {202: 2}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_never_leaves(intake: Intake, value: float) -> None:
    """What JSON cannot say is not sent, what came before it is, and the reason names it."""
    for bad in (
        Sample("esp32.gpio", value, CLOCK.now(), ()),
        Sample("esp32.gpio", 1.0, value, ()),
    ):
        outcome = sink_to(intake).send([*samples(3), bad, *samples(3)])
        reason = "A sample of esp32.gpio is not finite; it was not sent."
        assert outcome == Outcome(3, Verdict.BAD, reason, tried=1, date=CLOCK.now())
        assert sink_to(intake).send([bad]) == Outcome(0, Verdict.BAD, reason, tried=1)
    assert intake.statuses == {202: 2}


def test_no_request_begins_that_might_outlast_the_time(intake: Intake) -> None:
    """A backlog is delivered until the time is over; the rest was not tried, and may come at once."""
    # The second `send` makes two requests, and on a busy machine the first may take most of a second.
    intake.script([Answer(delay_s=1.05)])
    sent = heavy(150)
    sink = sink_to(intake, timeout_s=10.0, within_s=11.0)
    outcome = sink.send(sent)
    assert 0 < outcome.accepted < len(sent)
    reason = f"Datadog at {intake.url} took {outcome.accepted} samples in the time there was."
    expected = Outcome(outcome.accepted, Verdict.BUSY, reason, retry_after_s=0.0, date=CLOCK.now())
    assert outcome == expected
    assert len(intake.requests) == 1
    assert sink.send(sent[outcome.accepted :]).verdict is Verdict.OK


def test_no_time_at_all_is_no_request(intake: Intake) -> None:
    """A machine that slept while a request was made finds its time over, and says so."""
    outcome = sink_to(intake, within_s=0.0).send(samples(4))
    assert outcome == Outcome(0, Verdict.BUSY, outcome.reason, retry_after_s=0.0)
    assert not intake.requests


def test_the_time_of_a_send_is_what_the_contract_says() -> None:
    """The first request's time-out and every later one's end within `SEND_S`."""
    sink = Datadog(KEY)
    assert sink._timeout_s <= sink._within_s < SEND_S


def test_a_connection_is_kept_from_request_to_request() -> None:
    """A backlog pays for one connection; one that the intake has closed meanwhile costs no doubt."""
    ok = answer(OK, status="202 Accepted")
    with Wire(ok, ok, ok, ok._replace(then="close"), ok) as wire:
        sink = Datadog(KEY, host=f"http://{wire.address()}")
        assert sink.send(heavy(150)).accepted == 150
        assert wire.connections["127.0.0.1"] == 1
        assert len(wire.requests["127.0.0.1"]) == 3
        assert sink.send(samples()).accepted == 1
        eventually(lambda: not wire.open["127.0.0.1"])
        assert sink.send(samples()).accepted == 1
        assert wire.connections["127.0.0.1"] == 2
        sink.close()
        eventually(lambda: not wire.open["127.0.0.1"])


def test_no_sink_waits_for_another_one_s_network(intake: Intake) -> None:
    """While one intake is silent, the others are served."""
    with Wire(answer(OK, status="202 Accepted")) as wire:
        go = wire.hold_back()
        outcomes: list[Outcome] = []
        slow = Datadog(KEY, host=f"http://{wire.address()}")
        thread = threading.Thread(target=lambda: outcomes.append(slow.send(samples())))
        thread.start()
        try:
            eventually(lambda: wire.requests["127.0.0.1"])
            assert sink_to(intake).send(samples()).accepted == 1
            assert not outcomes
        finally:
            go.set()
            thread.join(10)
        assert outcomes[0].accepted == 1


def test_sinks_do_not_disturb_each_other(intake: Intake) -> None:
    """Two sinks in one process keep their own key, host and time-out, whoever sent last."""
    with Intake("another", clock=CLOCK) as other:
        here, there = sink_to(intake), Datadog("another", host=other.url, timeout_s=2.0)
        for _ in range(2):
            assert here.send(samples()).accepted == 1
            assert there.send(samples()).accepted == 1
        other.script([Answer(delay_s=600)])
        assert there.send(samples()).accepted == 0
        intake.script([Answer(delay_s=0.3)])
        assert here.send(samples()).accepted == 1
        assert (intake.accepted, other.accepted) == (3, 2)
        assert "dd-application-key" not in other.requests[0].headers


def test_the_keys_are_told_to_nobody(
    intake: Intake, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in a repr, a reason or a log, not even when the intake repeats them."""
    caplog.set_level(logging.DEBUG)
    echo = b'{"errors": ["bad keys ' + KEY.encode() + b" and " + APP_KEY.encode() + b'"]}'
    intake.script([Answer(403, echo), Answer(500, echo), Answer(202, echo), Answer(close="before")])
    sink = sink_to(intake)
    told = [repr(sink), str(sink)]
    told += [repr(sink.send(samples())) for _ in range(5)]
    assert "bad keys (key) and (key)" in told[2]
    printed = capfd.readouterr()
    kept = repr((vars(datadog.api), vars(datadog.api.api_client.APIClient)))
    for text in (*told, caplog.text, printed.out, printed.err, kept):
        assert KEY not in text
        assert APP_KEY not in text


def test_a_key_is_not_told_in_part(intake: Intake) -> None:
    """Where a long complaint is cut, no piece of a key is left; nothing in it moves a terminal."""
    sink = sink_to(intake)
    for spaces in range(160, 205):
        echo = {"errors": ["\x1b[2J" + "." * spaces + KEY]}
        intake.script([Answer(400, json.dumps(echo).encode())])
        outcome = sink.send(samples())
        assert KEY[:6] not in outcome.reason
        is_sentence(outcome, intake.url)


def test_a_redirection_is_not_followed(intake: Intake) -> None:
    """The key goes where it was meant to go and nowhere else."""
    with Intake(KEY) as other:
        for status in (301, 302, 307, 308):
            place = (("Location", other.url + "/api/v1/series"),)
            intake.script([Answer(status, OK, headers=place)])
            outcome = sink_to(intake).send(samples())
            assert (outcome.verdict, outcome.tried, outcome.status) == (Verdict.BUSY, 1, status)
        assert not other.requests


def test_this_machine_is_called_without_a_proxy(
    intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine-wide proxy is not asked for an intake on loopback."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert sink_to(intake).send(samples()).accepted == 1


@pytest.mark.parametrize("key", ["", "two words", "line\n", "schlüssel", "\x7f"])
def test_a_key_that_cannot_be_one_is_refused_at_once(key: str) -> None:
    """Said at the start, in a sentence without the key."""
    with pytest.raises(SinkError) as caught:
        Datadog(key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    ["", "api.datadoghq.com", "ftp://x", "http://", "http://x:port", "http://[x", "http://x?a"],
)
def test_a_host_that_cannot_be_one_is_refused_at_once(host: str) -> None:
    """Said at the start, with an example of one."""
    with pytest.raises(SinkError, match="such as https://"):
        Datadog(KEY, host=host)


def test_credentials_in_the_host_are_not_shown() -> None:
    """An address with a password is named without it."""
    outcome = Datadog(KEY, host="http://me:secret@127.0.0.1:9").send(samples())
    assert outcome.reason.startswith("Datadog at http://127.0.0.1:9 cannot be reached")


def test_the_library_is_imported_by_the_first_send_only() -> None:
    """Commands that send nothing do not pay for the library."""
    code = (
        "import sys; from espnet.sinks.datadog import Datadog; Datadog('k');"
        "sys.exit(bool({'datadog', 'requests', 'urllib3'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
