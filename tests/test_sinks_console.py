"""The console sink, on streams, pipes and terminals."""

import io
import os
import pty
import select
import time
from collections.abc import Iterator
from typing import TextIO

import pytest

from espnet.clock import ManualClock
from espnet.samples import Sample
from espnet.sinks import Sink, Verdict
from espnet.sinks.console import WAIT_S, Console

AT = 1_750_000_000.0


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is that of a house five hours and a half ahead."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        yield
    time.tzset()


def sample(metric: str = "esp32.f", *tags: str, value: float = 71.6, at: float = AT) -> Sample:
    return Sample(metric, value, at, ("name:porch", "id:a0b1", *tags))


def shown(*samples: Sample) -> str:
    stream = io.StringIO()
    assert Console(stream).send(samples) == (
        len(samples),
        Verdict.OK,
        "",
        0,
        False,
        None,
        None,
        None,
    )
    return stream.getvalue()


def test_a_sample_is_a_line_for_people() -> None:
    """Local time, the device's name, the metric, the value and the other tags, in columns."""
    sink: Sink = Console(io.StringIO())
    assert sink.window_s is None
    words = ["2025-06-15", "20:36:40", "porch", "esp32.f", "71.6", "id:a0b1", "room:attic"]
    assert shown(sample("esp32.f", "room:attic")).split() == words
    two = shown(sample(), sample("esp32.dht22.humidity", value=4.25)).splitlines()
    assert two[0].index("id:a0b1") == two[1].index("id:a0b1")


def test_values_keep_their_digits() -> None:
    """A number of a sensor is shown as it is, however large or small."""
    for value in ("0.1", "1", "3021.0625", "1234567890", "1e-09", "1e+300"):
        assert f" {value} " in shown(sample(value=float(value)))


def test_no_device_or_time_stops_a_line() -> None:
    """What cannot be a date is shown as a number, and a sample of no device as one."""
    assert shown(Sample("m", 1, 1e300, ())).split() == ["at", "1e+300", "-", "m", "1"]


def test_nothing_reaches_the_terminal_as_a_control_character() -> None:
    """Escapes, line ends, C1 and direction marks in texts that others chose are shown, not obeyed."""
    text = shown(sample("a\x1b[2J\n\r\x9b", "room:\u202e\u2028\ud800µ"))
    assert "a\\x1b[2J\\n\\r\\x9b" in text
    assert "room:\\u202e\\u2028\\ud800µ" in text
    assert text.removesuffix("\n").isprintable()


def test_a_terminal_that_knows_ascii_only_is_shown_escapes() -> None:
    """A character that the stream cannot carry ends nothing."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    assert Console(stream).send([sample("m", "room:µ")]).accepted == 1
    assert b"room:\\xb5\n" in raw.getvalue()


def pipe() -> tuple[int, TextIO]:
    reader, writer = os.pipe()
    return reader, open(writer, "w", encoding="utf-8")


def test_a_broken_pipe_is_busy() -> None:
    """`espcli run | head` has seen enough: not accepted, and one sentence why."""
    reader, stream = pipe()
    os.close(reader)
    outcome = Console(stream).send([sample()] * 3)
    assert (outcome.accepted, outcome.verdict, outcome.tried) == (0, Verdict.BUSY, 3)
    assert outcome.reason == "The console cannot be written to (Broken pipe); start it anew."
    assert outcome.is_unsure
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_a_closed_stream_is_busy() -> None:
    """Closed from our side: not accepted, and nothing raises."""
    memory = io.StringIO()
    reader, stream = pipe()
    for closed in (memory, stream):
        closed.close()
        outcome = Console(closed).send([sample()])
        assert (outcome.accepted, outcome.verdict) == (0, Verdict.BUSY)
        assert outcome.reason == "The console is closed; start it anew."
    os.close(reader)


class Impatient(ManualClock):
    """All the time there is has passed before the first wait."""

    def monotonic(self) -> float:
        return self.advance(WAIT_S) - WAIT_S


def test_a_reader_that_stopped_is_busy_and_loses_nothing() -> None:
    """A full pipe: what went in is accepted, the rest is not, and nobody hangs; then it goes on."""
    reader, stream = pipe()
    batch = [sample("m", at=AT + n) for n in range(2_000)]
    outcome = Console(stream, clock=Impatient()).send(batch)
    assert outcome.verdict is Verdict.BUSY
    assert "taken nothing" in outcome.reason
    assert 0 < outcome.accepted < 2_000
    text = os.read(reader, 1_000_000)
    assert text.count(b"\n") == outcome.accepted
    assert text.endswith(b"\n")
    assert Console(stream).send(batch[outcome.accepted :][:100]).accepted == 100
    stream.close()
    os.close(reader)


def test_a_terminal_that_was_paused_is_busy() -> None:
    """Ctrl-S: nobody hangs; Ctrl-Q: it goes on."""
    master, slave = pty.openpty()
    with open(slave, "w", encoding="utf-8") as terminal:
        sink = Console(terminal, clock=Impatient())
        press(master, b"\x13", slave, is_writable=False)
        outcome = sink.send([sample()] * 3)
        assert (outcome.accepted, outcome.verdict, outcome.tried) == (0, Verdict.BUSY, 3)
        press(master, b"\x11", slave, is_writable=True)
        assert sink.send([sample()] * 3).accepted == 3
        assert os.read(master, 10_000).count(b"porch") == 3
    os.close(master)


def press(master: int, key: bytes, slave: int, *, is_writable: bool) -> None:
    """Presses a key and waits until the terminal has taken it to heart."""
    os.write(master, key)
    poller = select.poll()
    poller.register(slave, select.POLLOUT)
    deadline = time.monotonic() + 10
    while bool(poller.poll(0)) is not is_writable:
        assert time.monotonic() < deadline
        time.sleep(0.001)
