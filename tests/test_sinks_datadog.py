"""The Datadog sink, with the real library, over real sockets."""

import copy
import logging
import math
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from espnet.errors import SinkError
from espnet.model import Sample
from espnet.simulator.intake import Answer, Intake
from espnet.sinks import Sink
from espnet.sinks.datadog import Datadog

KEY = "0123456789abcdef0123456789abcdef"
APP_KEY = "fedcba9876543210"
OK = b'{"status": "ok"}'


@pytest.fixture
def intake() -> Iterator[Intake]:
    with Intake(KEY, points_each=1_000_000, most_series=1_000_000) as running:
        yield running


def sink_to(intake: Intake, timeout_s: float = 10.0) -> Datadog:
    return Datadog(KEY, APP_KEY, intake.url, timeout_s=timeout_s)


def samples(count: int = 1, tags: tuple[str, ...] = ("id:a", "name:porch")) -> list[Sample]:
    now = time.time()
    return [Sample("esp32.f", 20.0 + n, now - n, tags) for n in range(count)]


def test_accepted_samples_are_at_the_intake(intake: Intake) -> None:
    """What is said to be accepted arrived: metric, value, time and tags."""
    sink: Sink = sink_to(intake)
    sent = samples(3)
    assert sink.send(sent) == (3, "", None)
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
    assert sink_to(intake).send([]) == (0, "", None)
    assert not intake.requests


def test_samples_are_not_changed(intake: Intake) -> None:
    """What the caller gave is what the caller has."""
    sent = samples(3)
    before = copy.deepcopy(sent)
    sink_to(intake).send(sent)
    assert sent == before


# What the intake does, and what the reason must say of it. Whatever is not here with its status is a
# connection that ended without one.
REFUSALS = {
    "202 with another body": (Answer(202, b'{"status": "no"}'), 202, 'the body does not say "ok"'),
    "202 with nothing": (Answer(202, b""), 202, 'the body does not say "ok"'),
    "202 with a list": (Answer(202, b'["ok"]'), 202, 'the body does not say "ok"'),
    "202 with a word": (Answer(202, b'"ok"'), 202, 'the body does not say "ok"'),
    "202 with HTML": (Answer(202, b"<html>ok</html>"), 202, "not JSON"),
    "202 with half a body": (Answer(202, OK, close="midway"), None, "closed the connection"),
    "202 with errors": (Answer(202, b'{"status": "ok", "errors": ["x"]}'), 202, ": x"),
    "301": (Answer(301, b"", headers=(("Location", "/api/v1/series"),)), 301, "Moved"),
    "400": (Answer(400, b'{"errors": ["Payload is bad."]}'), 400, ": Payload is bad."),
    "400 that says ok": (Answer(400, OK), 400, 'the body does not say "ok"'),
    "401": (Answer(401, b'{"errors": ["Who?"]}'), 401, "check DATADOG_API_KEY"),
    "403 with JSON": (
        Answer(403, b'{"status": "error", "code": 403, "errors": ["Forbidden"]}'),
        403,
        ": Forbidden; check DATADOG_API_KEY",
    ),
    "403 with HTML": (Answer(403, b"<html>"), 403, "check DATADOG_API_KEY"),
    "403 with odd errors": (Answer(403, b'{"errors": {"a": 1}}'), 403, "{'a': 1}"),
    "403 with no errors": (Answer(403, b'{"errors": []}'), 403, "check DATADOG_API_KEY"),
    "404": (Answer(404, b'{"errors": ["Not found"]}'), 404, "Not found"),
    "408": (Answer(408, b"{}"), 408, "Request Timeout"),
    "413": (Answer(413, b'{"errors": ["Payload too large"]}'), 413, "Too Large"),
    "429": (Answer(429, b'{"errors": ["Slow down"]}'), 429, "Slow down"),
    "500": (Answer(500, b"oops"), 500, "Internal Server Error"),
    "503": (Answer(503, OK), 503, "Service Unavailable"),
    "no answer": (Answer(close="before"), None, "closed the connection"),
    "silence": (Answer(delay_s=600), None, "did not answer within 0.3 s"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_whatever_is_not_ok_is_not_accepted(case: str, intake: Intake) -> None:
    """Every end of a request but 202 with ok: nothing accepted, one sentence why; then all is well."""
    answer, status, says = REFUSALS[case]
    intake.script([answer])
    sink = sink_to(intake, timeout_s=0.3)
    outcome = sink.send(samples())
    assert (outcome.accepted, outcome.status) == (0, status)
    assert says in outcome.reason
    assert outcome.reason.startswith(f"Datadog at {intake.url} ")
    assert outcome.reason.endswith(".")
    assert "\n" not in outcome.reason
    assert " object at 0x" not in outcome.reason
    assert sink_to(intake).send(samples()).accepted == 1


def test_a_refused_connection_is_a_reason() -> None:
    """Nobody listens: not accepted, and the reason is the system's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    outcome = Datadog(KEY, host=f"http://127.0.0.1:{port}").send(samples())
    reason = f"Datadog at http://127.0.0.1:{port} cannot be reached (Connection refused)."
    assert outcome == (0, reason, None)


def test_an_unknown_host_is_a_reason() -> None:
    """A name that leads nowhere is a refusal, not a crash (RFC 6761: ``.invalid`` never resolves)."""
    for name in ("intake.invalid", "a..b", "x" * 64 + ".invalid"):
        outcome = Datadog(KEY, host=f"http://{name}", timeout_s=5).send(samples())
        assert outcome.accepted == 0
        assert "cannot be reached" in outcome.reason


def test_what_speaks_no_http_is_a_reason() -> None:
    """Some other server at that address: not accepted."""
    import threading

    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(b"220 mail.example ESMTP\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        outcome = Datadog(KEY, host=f"http://127.0.0.1:{server.getsockname()[1]}").send(samples())
        thread.join()
    assert outcome.accepted == 0
    assert "closed the connection before it had answered" in outcome.reason


def test_the_library_never_backs_off_on_its_own(intake: Intake) -> None:
    """After any number of time-outs the next send is a request (the library would pause for 300 s)."""
    intake.script([Answer(delay_s=600)] * 5)
    sink = sink_to(intake, timeout_s=0.1)
    for _ in range(5):
        assert "did not answer" in sink.send(samples()).reason
    assert sink_to(intake).send(samples()).accepted == 1
    assert len(intake.requests) == 6


def test_what_the_first_requests_delivered_stays_accepted(intake: Intake) -> None:
    """Partial success: exactly the beginning is accepted, and the rest sent again completes it."""
    # Tags that differ in every sample fill requests soonest.
    sent = [s for n in range(150) for s in samples(1, (f"n:{n}", *(["t:" + "x" * 190] * 90)))]
    intake.script([Answer(), Answer(), Answer(503)])
    sink = sink_to(intake)
    outcome = sink.send(sent)
    assert 0 < outcome.accepted < len(sent)
    assert outcome.status == 503
    assert intake.accepted == outcome.accepted
    assert sink.send(sent[outcome.accepted :]).accepted == len(sent) - outcome.accepted
    assert [len(intake.points("esp32.f", f"n:{n}")) for n in range(150)] == [1] * 150


@pytest.mark.parametrize("seed", range(3))
def test_requests_keep_to_the_limits_of_the_intake(intake: Intake, seed: int) -> None:
    """Many samples, long or foreign tags, digits that do not compress: never 413, each point once."""
    chance = random.Random(seed)
    names = ["".join(chance.choices("aü温🌡", k=40)) for _ in range(200)]
    now = time.time()
    sent = [
        Sample(
            chance.choice(["esp32.f", "esp32.up", "esp32.poll_seconds"]),
            chance.uniform(-1e300, 1e300),
            now - chance.random() * 60,
            (f"id:{chance.randrange(10**6)}", f"name:{chance.choice(names)}"),
        )
        for _ in range(12_000)
    ]
    assert sink_to(intake).send(sent) == (len(sent), "", None)
    assert intake.statuses == {202: len(intake.requests)}
    assert intake.accepted == len(sent)
    kept = [(at, v) for m in {s.metric for s in sent} for at, v in intake.points(m)]
    assert sorted(kept) == sorted((s.at, s.value) for s in sent)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_never_leaves(intake: Intake, value: float) -> None:
    """What JSON cannot say is not sent, what came before it is, and the reason names it."""
    sent = samples(3)
    bad = Sample("esp32.gpio", value, time.time(), ())
    outcome = sink_to(intake).send([*sent, bad, *sent])
    assert outcome == (3, "A sample of esp32.gpio is not finite; it was not sent.", None)
    assert intake.statuses == {202: 1}


def test_sinks_do_not_disturb_each_other(intake: Intake) -> None:
    """Two sinks in one process keep their own key, host and time-out, whoever sent last."""
    with Intake("another") as other:
        here, there = sink_to(intake), Datadog("another", host=other.url, timeout_s=0.1)
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
    for text in (*told, caplog.text, printed.out, printed.err):
        assert KEY not in text
        assert APP_KEY not in text


def test_a_redirection_is_not_followed(intake: Intake) -> None:
    """The key goes where it was meant to go and nowhere else."""
    with Intake(KEY) as other:
        for status in (301, 302, 307, 308):
            place = (("Location", other.url + "/api/v1/series"),)
            intake.script([Answer(status, OK, headers=place)])
            assert sink_to(intake).send(samples())[::2] == (0, status)
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
