"""`espcli demo`: the main job in one command, which leaves nothing behind however it ends."""

import os
import pty
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .world import ESPCLI, MARK, PATIENCE_S, marked_processes, wait_for


class Demo:
    """A demo under way, with a temporary folder and a mark of its own."""

    def __init__(self, folder: Path, *options: str, terminal: int | None = None) -> None:
        self.folder = folder
        folder.mkdir()
        self.mark = secrets.token_hex(8)
        self._output = folder.with_suffix(".output")
        environ = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "COLUMNS": "120",
            "LINES": "40",
            "HOME": str(folder),
            "TMPDIR": str(folder),
            # A user's own settings are none of the demo's business.
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "DATADOG_API_KEY": "the-users-own-key",
            "DATADOG_HOST": "http://127.0.0.1:1",
            "PYTHONWARNINGS": "error",
            MARK: self.mark,
        }
        with self._output.open("wb") as file:
            out = file if terminal is None else terminal
            self.process = subprocess.Popen(
                [str(ESPCLI), "demo", *options],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out if terminal is not None else subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_until_it_polls(self) -> None:
        """Returns when its collector runs."""

        def has_collector() -> bool:
            assert self.process.poll() is None, self.output
            return any("espnet.cli run" in process for process in self.left_processes())

        wait_for("the demo's collector", has_collector, 30)

    def left_processes(self) -> list[str]:
        """Its processes that live, itself not included."""
        own = f"{self.process.pid}:"
        return [p for p in marked_processes(self.mark, self.folder) if not p.startswith(own)]

    def require_nothing_left(self) -> None:
        assert self.left_processes() == []
        assert [path.name for path in self.folder.iterdir()] == []

    def end(self) -> None:
        """Whatever happened: nothing of it lives afterwards."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for process in marked_processes(self.mark, self.folder):
            os.kill(int(process.partition(":")[0]), signal.SIGKILL)


@pytest.fixture
def start(short_path: Path) -> Iterator[Callable[..., Demo]]:
    """Starts demos, which end with the test."""
    demos: list[Demo] = []

    def start(*options: str, terminal: int | None = None) -> Demo:
        demos.append(Demo(short_path / f"demo{len(demos)}", *options, terminal=terminal))
        return demos[-1]

    yield start
    for demo in demos:
        demo.end()


def _drain(terminal: int, seen: bytearray) -> bool:
    """Reads what there is of a terminal's output; False when nobody writes to it any more."""
    try:
        data = os.read(terminal, 65536)
    except BlockingIOError:
        return True
    except OSError:  # how Linux says that the other end is closed
        return False
    seen += data
    return bool(data)


def test_the_demo_polls_three_boards_loses_nothing_and_leaves_nothing(
    start: Callable[..., Demo],
) -> None:
    """It ends by itself with exit code 0; the summary names three boards and no loss; no process and
    no file of it is left. In a terminal it draws the table while it runs."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    seen = bytearray()
    try:
        plain = start("--seconds", "8")  # its flaky board makes mischief after 6
        drawn = start("--seconds", "5", terminal=theirs)
        os.close(theirs)
        wait_for("the terminal's end", lambda: not _drain(ours, seen), 60, 0.02)
        assert plain.process.wait(60) == 0, plain.output
        assert drawn.process.wait(60) == 0, seen.decode()
    finally:
        os.close(ours)
    plain.require_nothing_left()
    drawn.require_nothing_left()

    summary = plain.output
    found = re.search(
        r"(\d+) boards polled in \d+ s: (.*)\. Samples: (\d+) collected, (\d+) accepted by the "
        r"intake, (\d+) lost\.",
        summary.replace("\n", " "),
    )
    assert found, summary
    assert found[1] == "3"
    assert sorted(found[2].split(", ")) == ["attic", "flaky", "porch"]
    assert found[3] == found[4] != "0"
    assert found[5] == "0"
    for words in ("Wrong", "Traceback", "Warning", "the-users-own-key"):
        assert words not in summary

    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())
    for words in ("DHT22 °C", "pins high", "last poll", "porch", "attic", "flaky", "online"):
        assert words in text
    assert re.search(r"samples: [1-9]\d* collected", text)
    # The table is drawn over itself, not once below the other.
    assert seen.count(b"\x1b[2K") > 10
    assert "3 boards polled" in text
    # The cursor, which it hid, is back.
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l")


def test_the_demo_ends_in_order_when_it_is_interrupted(start: Callable[..., Demo]) -> None:
    """Ctrl-C and SIGTERM in the middle: the summary, exit code 0 as nothing was lost, nothing left;
    also when somebody presses Ctrl-C again and again."""
    demos = [start(), start(), start()]
    for demo in demos:
        demo.wait_until_it_polls()
    # Polled and uploaded at least once: intervals are 1 s, uploads every 2 s.
    began_s = time.monotonic()
    wait_for("some polls", lambda: time.monotonic() - began_s > 3.5)
    interrupted, terminated, impatient = demos
    interrupted.process.send_signal(signal.SIGINT)
    terminated.process.send_signal(signal.SIGTERM)
    for _ in range(3):
        impatient.process.send_signal(signal.SIGINT)
        time.sleep(0.05)  # as a person's fingers
    for demo in demos:
        assert demo.process.wait(60) == 0, demo.output
        demo.require_nothing_left()
        assert "3 boards polled" in demo.output
        assert " 0 lost" in demo.output.replace("\n", " ")
        assert "Traceback" not in demo.output


def _stopped_while_it_starts(start: Callable[..., Demo], number: signal.Signals) -> Demo:
    demo = start()
    wait_for("its boards begin", lambda: [p for p in demo.left_processes() if "zygote" in p])
    demo.process.send_signal(number)
    assert demo.process.wait(PATIENCE_S) == 128 + number
    return demo


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_while_it_starts_leaves_no_process(
    start: Callable[..., Demo], number: signal.Signals
) -> None:
    """A signal between the first board and the first poll ends it as well, without a traceback."""
    demo = _stopped_while_it_starts(start, number)
    assert demo.left_processes() == []
    assert "Traceback" not in demo.output


def test_a_demo_that_is_stopped_while_it_starts_leaves_no_file(start: Callable[..., Demo]) -> None:
    """A signal between the first board and the first poll leaves no temporary folder."""
    for _ in range(3):
        _stopped_while_it_starts(start, signal.SIGTERM).require_nothing_left()


def test_a_killed_demo_leaves_no_board(start: Callable[..., Demo]) -> None:
    """``kill -9`` of the demo: its boards go with it."""
    demo = start()
    demo.wait_until_it_polls()
    demo.process.kill()
    demo.process.wait()
    wait_for(
        "no board is left",
        lambda: not [p for p in demo.left_processes() if "zygote" in p or "board" in p],
    )
