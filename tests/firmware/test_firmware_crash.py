"""The last crash: kept for people, across resets, and never at the board's expense."""

import json
from pathlib import Path
from typing import Any

import pytest

from espnet.simulator.fleet import Board

from .firmware_client import ask, until

#: A call that runs what its query says, in `_crash`, deep enough for a traceback.
BUG = """
    async def bug(self, request):
        _crash(request.query.decode())

    async def gpio(self, request):"""
CRASH = """
def _crash(what):
    if what == "zero":
        return 1 // 0
    if what == "deep":
        return _crash(what) + 1
    if what == "key":
        return {}["swordfish\\nand more"]
    if what == "value":
        return int("swordfish")
    if what == "long":
        raise ValueError("swordfish" * 100)
    if what == "umlaut":
        raise OSError("\\xfc" * 900)
    raise RuntimeError("quoted \\"" + what + "\\"")


def _read(request)"""
ROUTE = '            (b"GET", b"/ui", PUBLIC, self.page),\n'
BUGGY = {
    "calls.py": [
        (ROUTE, ROUTE + '            (b"GET", b"/bug", READ, self.bug),\n'),
        ("\n    async def gpio(self, request):", BUG),
        ("\ndef _read(request)", CRASH),
    ]
}
SHORT_REST = ("_REST_S = const(600)", "_REST_S = const(1)")


def crash_of(board: Board) -> dict[str, Any] | None:
    found: dict[str, Any] | None = ask(board, "GET", "/details").json["crash"]
    return found


def bug(board: Board, what: str) -> None:
    assert ask(board, "GET", "/bug?" + what).status == 500


def kept(board: Board) -> Path:
    return board.flash / "crash.json"


def on_flash(board: Board) -> str:
    """The text that is on flash, "" when there is none."""
    return str(json.loads(kept(board).read_text())) if kept(board).exists() else ""


def test_a_crash_is_kept_across_resets(make_board) -> None:
    """A handler's exception is told with its traceback, and still is after a reset."""
    board = make_board(BUGGY)
    assert crash_of(board) is None
    assert not kept(board).exists()
    bug(board, "zero")
    crash = crash_of(board)
    assert crash is not None
    assert set(crash) == {"text", "ago_s"}
    assert 0 <= crash["ago_s"] <= 2
    assert crash["text"].startswith("Traceback (most recent call last):\n")
    assert crash["text"].endswith("in _crash\nZeroDivisionError: divide by zero")
    assert on_flash(board) == crash["text"]
    for cause in ("hard", "power"):
        board.reset(cause)
        assert crash_of(board) == {"text": crash["text"], "ago_s": None}
    bug(board, "other")
    again = crash_of(board)
    assert again is not None
    assert again["text"].endswith('RuntimeError: quoted "other"')
    assert again["ago_s"] is not None


@pytest.mark.parametrize("where", ["task", "loop"])
def test_crashes_outside_of_calls_are_kept(make_board, where: str) -> None:
    """So are those of the tasks that main.py keeps running, and those of its loop."""
    changes = {
        "task": [
            ("async def tick():", 'async def bad():\n    raise OSError("it broke")\n\n\nasync def tick():'),
            ("starts = (tick,", "starts = (tick, bad,"),
        ],
        "loop": [
            (
                "            try:\n                asyncio.get_event_loop()",
                '            try:\n                if bad:\n                    raise OSError(bad.pop())\n'
                "                asyncio.get_event_loop()",
            ),
            ("    tasks = [", '    bad = ["it broke"]\n    tasks = ['),
        ],
    }[where]  # fmt: skip
    board = make_board({"app.py": changes})
    crash = until(lambda: crash_of(board))
    assert crash["text"].endswith("OSError: it broke")
    assert on_flash(board) == crash["text"]


def test_what_is_kept_is_bounded_and_holds_no_secret(make_board) -> None:
    """However deep or long, half a kilobyte is kept; what came from outside is left out."""
    board = make_board({**BUGGY, "crash.py": [SHORT_REST]}, compiled=True)
    ends = {
        "deep": "RuntimeError: maximum recursion depth exceeded",
        "key": "in _crash\nKeyError",
        "value": "in _crash\nValueError",
        "long": "in _crash\nValueError",
        "umlaut": "in _crash\nOSError: " + "ü" * 91,
        "x" * 900: 'in _crash\nRuntimeError: quoted "' + "x" * 78,
    }
    for what, end in ends.items():
        bug(board, what)
        crash = crash_of(board)
        assert crash is not None
        assert crash["text"].endswith(end), what
        assert crash["text"].count("\n") <= 9
        assert len(crash["text"]) <= 768
        until(lambda text=crash["text"]: on_flash(board) == text)
        assert "swordfish" not in crash["text"]
    assert "swordfish" in board.console
    assert board.boots == 1


def test_flash_is_written_sparingly(make_board) -> None:
    """The same text is written once; another one after the rest, when it is the last by then."""
    board = make_board({**BUGGY, "crash.py": [("_REST_S = const(600)", "_REST_S = const(3)")]})
    bug(board, "zero")
    first = kept(board).stat()
    bug(board, "one")
    bug(board, "two")
    assert kept(board).stat() == first
    assert crash_of(board)["text"].endswith('"two"')  # type: ignore[index]
    until(lambda: kept(board).stat().st_ino != first.st_ino)
    assert on_flash(board).endswith('"two"')
    second = kept(board).stat()
    bug(board, "two")
    board.reset()
    bug(board, "two")
    assert kept(board).stat() == second


def test_ten_minutes_is_the_rest() -> None:
    """Outside of tests the rest is ten minutes."""
    text = (Path(__file__).parents[2] / "esp32" / "crash.py").read_text()
    assert SHORT_REST[0] in text


def test_a_flash_that_takes_nothing(make_board) -> None:
    """A crash that cannot be written is told all the same, and is written when there is room."""
    board = make_board({**BUGGY, "crash.py": [SHORT_REST]})
    (board.flash / "crash.json.new").mkdir()
    for _ in range(3):
        bug(board, "zero")
    assert crash_of(board)["text"].endswith("divide by zero")  # type: ignore[index]
    assert not kept(board).exists()
    (board.flash / "crash.json.new").rmdir()
    until(kept(board).exists)
    assert ask(board, "GET", "/").status == 200
    assert board.boots == 1


@pytest.mark.parametrize("spoilt", [b"", b"{", b"7", b'"\xff\xfe"', b'["x"]'], ids=repr)
def test_a_damaged_file_is_none(board: Board, spoilt: bytes) -> None:
    """A file that says nothing readable counts as no crash."""
    kept(board).write_bytes(spoilt)
    try:
        assert crash_of(board) is None
    finally:
        kept(board).unlink()


@pytest.mark.parametrize("failing", ["import io", "    calls = _Calls()", "    _save()\n\n"])
def test_keeping_never_fails(make_board, failing: str) -> None:
    """Without memory to keep it, a crash is on the console only, and the board goes on."""
    indent = failing[: len(failing) - len(failing.lstrip())]
    worse = f"{indent}raise MemoryError\n{failing}" if indent else failing + "\nraise MemoryError"
    board = make_board({**BUGGY, "crash.py": [(failing, worse)]})
    for _ in range(3):
        bug(board, "zero")
    assert not kept(board).exists()
    assert ask(board, "GET", "/details").status == 200
    assert board.console.count("ZeroDivisionError") == 3
    assert board.boots == 1
