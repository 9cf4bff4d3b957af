"""Whatever an intake answers, or fails to: its verdict, what was tried, and whether it may have arrived."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
from board_wire import Say, Wire, answer, eventually
from hypothesis import given
from hypothesis import strategies as st
from sink_cases import APP_KEY, CLOCK, KEY, OK, SLACK_S, an_intake, is_sentence, samples, sink_to

from espnet.simulator.intake import Answer, Intake
from espnet.sinks import Outcome, Verdict
from espnet.sinks.datadog import Datadog
from espnet.sinks.http_times import date_of, retry_after_of


@pytest.fixture
def intake() -> Iterator[Intake]:
    with an_intake() as running:
        yield running


class Case(NamedTuple):
    """What is answered to one sample, and what its outcome must be; ``says`` is in its reason."""

    answer: Answer
    says: str
    verdict: Verdict = Verdict.BUSY
    is_unsure: bool = False
    retry_after_s: float | None = None


LOGIN = b"<html><body>Please log in</body></html>"
LATER = b'{"errors": ["Slow down"]}'


def later(status: int, **headers: str) -> Answer:
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Answer(status, LATER, headers=named)


OK_CASES = {"200": Answer(200, OK), "202": Answer(202, OK), "judged": Answer()}
CASES = {
    "202 with another body": Case(Answer(202, b'{"status": "no"}'), 'not say "ok"', is_unsure=True),
    "202 with nothing": Case(Answer(202, b""), 'not say "ok"', is_unsure=True),
    "202 with a list": Case(Answer(202, b'["ok"]'), 'not say "ok"', is_unsure=True),
    "202 with a word": Case(Answer(202, b'"ok"'), 'not say "ok"', is_unsure=True),
    "202 with HTML": Case(Answer(202, b"<html>ok</html>"), 'not say "ok"', is_unsure=True),
    "202 nested too deep": Case(Answer(202, b"[" * 60_000), 'not say "ok"', is_unsure=True),
    "202 with bytes": Case(Answer(202, b"\xff\x00"), 'not say "ok"', is_unsure=True),
    "202 with half a body": Case(
        Answer(202, OK, close="midway"), "closed before its body", is_unsure=True
    ),
    "202 without end": Case(Answer(202, OK + b" " * 70_000), "far too large", is_unsure=True),
    "202 with errors": Case(
        Answer(202, b'{"status": "ok", "errors": ["x"]}'), "answered 202: x.", is_unsure=True
    ),
    "204": Case(Answer(204, b""), 'not say "ok"', is_unsure=True),
    "301": Case(Answer(301, b"", headers=(("Location", "/x"),)), "301: Moved"),
    "400": Case(Answer(400, b'{"errors": ["Bad payload."]}'), ": Bad payload.", Verdict.BAD),
    "400 that says ok": Case(Answer(400, OK), "400: Bad Request", Verdict.BAD),
    "400 with HTML": Case(Answer(400, LOGIN), "400: Bad Request", Verdict.BAD),
    "400 cut short": Case(Answer(400, LATER, close="midway"), "400: Bad Request", Verdict.BAD),
    "401": Case(Answer(401, b'{"errors": ["Who?"]}'), "check DATADOG_API_KEY", Verdict.DENIED),
    "403 with JSON": Case(
        Answer(403, b'{"status": "error", "code": 403, "errors": ["Forbidden"]}'),
        "403: Forbidden; check DATADOG_API_KEY",
        Verdict.DENIED,
    ),
    "403 with HTML": Case(Answer(403, LOGIN), "check DATADOG_API_KEY", Verdict.DENIED),
    "403 with odd errors": Case(Answer(403, b'{"errors": {"a": 1}}'), "{'a': 1}", Verdict.DENIED),
    "403 with no errors": Case(Answer(403, b'{"errors": []}'), "403: Forbidden", Verdict.DENIED),
    "404": Case(Answer(404, b'{"errors": ["Not found"]}'), "Not found"),
    "407": Case(Answer(407, LOGIN), "407: Proxy Authentication Required"),
    "408": Case(Answer(408, b"{}"), "Request Timeout"),
    "413": Case(Answer(413, b'{"errors": ["Too much"]}'), "Too much", Verdict.TOO_LARGE),
    "413 with HTML": Case(Answer(413, LOGIN), "413: ", Verdict.TOO_LARGE),
    "429": Case(Answer(429, LATER), "Slow down"),
    "429 with Retry-After": Case(later(429, Retry_After="7"), "Slow down", retry_after_s=7.0),
    "429 with X-RateLimit-Reset": Case(
        later(429, X_RateLimit_Reset="9"), "Slow down", retry_after_s=9.0
    ),
    "429 with both": Case(
        later(429, Retry_After="7", X_RateLimit_Reset="9"), "Slow down", retry_after_s=9.0
    ),
    "429 for a day": Case(later(429, Retry_After="86400"), "Slow down", retry_after_s=3_600.0),
    "429 for no time": Case(later(429, Retry_After="-5"), "Slow down", retry_after_s=0.0),
    "429 for nonsense": Case(later(429, Retry_After="soon", X_RateLimit_Reset="nan"), "Slow down"),
    "500": Case(Answer(500, b"oops"), "Internal Server Error"),
    "500 with X-RateLimit-Reset": Case(later(500, X_RateLimit_Reset="9"), "Slow down"),
    "502 with HTML": Case(Answer(502, LOGIN), "Bad Gateway", is_unsure=True),
    "503": Case(Answer(503, OK), "Service Unavailable"),
    "503 with Retry-After": Case(later(503, Retry_After="2.5"), "Slow down", retry_after_s=2.5),
    "504": Case(Answer(504, LOGIN), "Gateway Timeout", is_unsure=True),
}


@pytest.mark.parametrize("case", OK_CASES)
def test_ok_is_accepted(case: str, intake: Intake) -> None:
    """2xx with ok accepts everything, and nothing else is said of it."""
    intake.script([OK_CASES[case]])
    sent = samples(5)
    status = OK_CASES[case].status or 202
    assert sink_to(intake).send(sent) == Outcome(5, date=CLOCK.now(), status=status)


@pytest.mark.parametrize("case", CASES)
def test_whatever_is_not_ok_is_not_accepted(case: str, intake: Intake) -> None:
    """Every other answer: nothing accepted, its verdict, one sentence why; then all is well."""
    answer, says, verdict, is_unsure, retry_after_s = CASES[case]
    intake.script([answer])
    sink = sink_to(intake)
    outcome = sink.send(samples(4))
    assert outcome == Outcome(
        0, verdict, outcome.reason, 4, is_unsure, retry_after_s, CLOCK.now(), answer.status
    )
    assert says in outcome.reason
    is_sentence(outcome, intake.url)
    assert sink.send(samples()).accepted == 1


HEAD = b"HTTP/1.1 202 Accepted\r\nContent-Length: 16\r\n\r\n"


#: Time-out where one is meant, in seconds: a busy machine may keep either side waiting for more than one.
LATE_S = 3.0
#: Between the pieces of what drips, in seconds: even its shortest text outlasts the time-out by far.
DRIP_S = 0.5


class WireCase(NamedTuple):
    """The same for what is no answer, or only the beginning of one."""

    say: Say
    says: str
    is_unsure: bool = True
    status: int | None = None
    verdict: Verdict = Verdict.BUSY


def dripping(text: bytes) -> tuple[bytes, ...]:
    return tuple(text[n : n + 1] for n in range(len(text)))


#: What is over at once.
WIRES = {
    "closed before": WireCase(Say((), "close"), "closed the connection"),
    "half-closed before": WireCase(Say((), "half"), "closed the connection"),
    "reset before": WireCase(Say((), "reset"), "closed the connection"),
    "closed in the head": WireCase(Say((HEAD[:7],), "close"), "does not speak HTTP"),
    "a header too long": WireCase(
        Say((HEAD[:-2] + b"X: " + b"y" * 70_000,), "hang"), "not speak HTTP"
    ),
    "closed in the body": WireCase(Say((HEAD + OK[:9],), "close"), "before its body", status=202),
    "half-closed in the body": WireCase(
        Say((HEAD + OK[:9],), "half"), "before its body", status=202
    ),
    "another protocol": WireCase(
        Say((b"220 mail.example ESMTP\r\n",), "close"), "does not speak HTTP"
    ),
    "503 cut short": WireCase(
        Say((HEAD.replace(b"202", b"503") + OK[:9],), "close"), "503", is_unsure=False, status=503
    ),
}
#: What takes its time.
SLOW_WIRES = {
    "silence": WireCase(Say((), "hang"), "did not answer within 3 s"),
    "silence in the head": WireCase(Say((HEAD[:30],), "hang"), "did not answer"),
    "dripping head": WireCase(Say(dripping(HEAD * 2), "hang", DRIP_S), "did not answer"),
    "endless head": WireCase(Say((HEAD[:-2], *[b"X: y\r\n"] * 99), "hang", 0.1), "did not answer"),
    "100 for ever": WireCase(
        Say((b"HTTP/1.1 100 Go\r\n\r\n",) * 999, "hang", 0.01), "did not answer"
    ),
    "silence in the body": WireCase(
        Say((HEAD + OK[:9],), "hang"), "did not come in time", status=202
    ),
    "dripping body": WireCase(
        Say((HEAD, *dripping(OK)), "hang", DRIP_S), "did not come in time", status=202
    ),
    # A reset takes along what was not read yet: the head must have been, and the time not be over.
    "reset in the body": WireCase(
        Say((HEAD, OK[:9]), "reset", LATE_S / 2), "before its body", status=202
    ),
    "403 that drips": WireCase(
        Say((HEAD.replace(b"202", b"403"), *dripping(OK)), "hang", DRIP_S),
        "answered 403: Accepted; check",
        is_unsure=False,
        status=403,
        verdict=Verdict.DENIED,
    ),
}


def is_judged(case: WireCase, timeout_s: float, within_s: float) -> None:
    say, says, is_unsure, status, verdict = case
    with Wire(say) as wire:
        url = f"http://{wire.address()}"
        sink = Datadog(KEY, APP_KEY, url, timeout_s=timeout_s)
        began = time.monotonic()
        outcome = sink.send(samples(4))
        assert time.monotonic() - began < within_s
        assert outcome == Outcome(0, verdict, outcome.reason, 4, is_unsure, status=status)
        assert says in outcome.reason
        is_sentence(outcome, url)
        eventually(lambda: not wire.open["127.0.0.1"])


@pytest.mark.parametrize("case", WIRES)
def test_what_is_no_whole_answer_is_busy_and_perhaps_arrived(case: str) -> None:
    """The request was sent; whether it arrived is only known where a status says so. At once."""
    is_judged(WIRES[case], 10.0, SLACK_S)


def test_what_does_not_end_is_busy_in_time_and_perhaps_arrived() -> None:
    """The same for whoever lets others wait: never late. All at once, because each costs its time."""

    def judge(case: str) -> None:
        is_judged(SLOW_WIRES[case], LATE_S, LATE_S + SLACK_S)

    with ThreadPoolExecutor(len(SLOW_WIRES)) as pool:
        list(pool.map(judge, SLOW_WIRES))


def test_a_refused_connection_is_a_reason() -> None:
    """Nobody listens: not sent, and the reason is the system's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    outcome = Datadog(KEY, host=f"http://127.0.0.1:{port}").send(samples(4))
    reason = f"Datadog at http://127.0.0.1:{port} cannot be reached (Connection refused)."
    assert outcome == Outcome(0, Verdict.BUSY, reason, tried=4)


def test_an_unknown_host_is_a_reason() -> None:
    """A name that leads nowhere is a refusal, not a crash (RFC 6761: ``.invalid`` never resolves)."""
    for name in ("intake.invalid", "a..b", "x" * 64 + ".invalid"):
        outcome = Datadog(KEY, host=f"http://{name}", timeout_s=5).send(samples(4))
        assert outcome == Outcome(0, Verdict.BUSY, outcome.reason, tried=4)
        assert "cannot be reached" in outcome.reason


def test_a_full_queue_of_connections_is_busy() -> None:
    """No connection in time: nothing was sent."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        host = f"http://127.0.0.1:{listener.getsockname()[1]}"
        outcome = Datadog(KEY, host=host, timeout_s=0.1).send(samples(4))
    assert outcome == Outcome(0, Verdict.BUSY, outcome.reason, tried=4)
    assert "no connection within 0.1 s" in outcome.reason


DATES = {
    "a date": ("Wed, 21 Oct 2026 07:28:30 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 30.0),
    "a date in the old form": (
        "Wednesday, 21-Oct-26 07:28:30 GMT",
        "Wed Oct 21 07:28:00 2026",
        30.0,
    ),
    "a date that is past": ("Wed, 21 Oct 2026 07:00:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 0.0),
    "a date far away": ("Thu, 21 Oct 2027 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 3_600.0),
    "a date without a date": ("Wed, 21 Oct 2026 07:28:30 GMT", "", None),
    "a date and nonsense": ("Wed, 21 Oct 2026 07:28:30 GMT", "Wed, 99 Foo", None),
}


@pytest.mark.parametrize("case", DATES)
def test_a_date_to_wait_for_counts_from_the_answer_s_own(case: str) -> None:
    """Whatever this machine's clock says: the far end's two dates are compared with each other."""
    after, date, wait_s = DATES[case]
    headers = f"Retry-After: {after}\r\n" + (f"Date: {date}\r\n" if date else "")
    with Wire(answer(b"", status="503 Later", headers=headers)) as wire:
        outcome = Datadog(KEY, host=f"http://{wire.address()}").send(samples())
    is_readable = date.startswith("Wed") and "Foo" not in date
    assert outcome.retry_after_s == wait_s
    assert outcome.date == (1_792_567_680.0 if is_readable else None)


@given(st.text(), st.text(), st.integers(100, 599))
def test_no_head_breaks_the_reading_of_its_times(after: str, date: str, status: int) -> None:
    """A wait is a number from 0 to an hour or none, whatever a far end writes."""
    for headers in ({"Retry-After": after, "Date": date}, {"X-RateLimit-Reset": after}):
        wait_s = retry_after_of(status, headers)
        assert wait_s is None or 0 <= wait_s <= 3_600
        date_of(headers)
