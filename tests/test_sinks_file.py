"""The file sink, on real files: full disks, shared files, killed writers."""

import fcntl
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from espnet.errors import SinkError
from espnet.samples import Sample
from espnet.sinks import Sink, Verdict
from espnet.sinks.file import File

AT = 1_750_000_000.0
#: What every child process begins with.
PREAMBLE = """
import sys
from espnet.samples import Sample
from espnet.sinks.file import File
"""


def samples(count: int, start: int = 0) -> list[Sample]:
    return [Sample("esp32.f", 20.0, AT + n, ("name:porch",)) for n in range(start, start + count)]


def times(*paths: Path) -> list[int]:
    """Whose samples are in the files, in their order; every line must be whole."""
    texts = [path.read_text() for path in paths]
    assert all(text.endswith("\n") for text in texts)
    return [int(json.loads(line)["at"] - AT) for text in texts for line in text.splitlines()]


def child(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PREAMBLE + code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "samples.jsonl"


def test_accepted_samples_are_lines_of_json(path: Path) -> None:
    """A line a sample: metric, value, Unix seconds and the list of tags, whatever their characters."""
    sink: Sink = File(path)
    odd = Sample("esp32.adc", 1e-9, AT + 0.25, ('room:"µ"\n\u2028', "pin:34"))
    assert sink.send([*samples(1), odd]) == (2, Verdict.OK, "", 0, False, None, None, None)
    first, second = path.read_text(encoding="utf-8").split("\n")[:-1]
    assert json.loads(first) == {
        "metric": "esp32.f",
        "value": 20.0,
        "at": AT,
        "tags": ["name:porch"],
    }
    assert json.loads(second)["tags"] == ['room:"µ"\n\u2028', "pin:34"]
    assert json.loads(second)["value"] == 1e-9


def test_nothing_to_send_is_no_file(path: Path) -> None:
    """No samples, no file, no complaint."""
    assert File(path).send([]).accepted == 0
    assert not path.exists()


def test_files_are_rotated_in_order(path: Path) -> None:
    """No file grows beyond its bound, the oldest is deleted, and what is kept has no gap."""
    sink = File(path, max_bytes=400, keep=3)
    for start in range(0, 60, 5):
        assert sink.send(samples(5, start)).accepted == 5
    kept = [path.with_name(f"{path.name}.{n}") for n in (3, 2, 1)] + [path]
    assert all(file.stat().st_size <= 400 for file in kept)
    found = times(*kept)
    assert found == list(range(found[0], 60))
    assert {file.name for file in path.parent.iterdir()} == {file.name for file in kept}


def test_one_batch_may_fill_several_files(path: Path) -> None:
    """A batch that is larger than a file goes on in the next one; a line never does."""
    assert File(path, max_bytes=300, keep=50).send(samples(40)).accepted == 40
    older = sorted(path.parent.glob("*.jsonl.*"), key=lambda file: -int(file.suffix[1:]))
    assert times(*older, path) == list(range(40))


def test_a_line_longer_than_a_file_has_one_of_its_own(path: Path) -> None:
    """A bound that no line keeps to delays nothing."""
    assert File(path, max_bytes=10, keep=9).send(samples(3)).accepted == 3
    assert times(path) == [2]
    assert times(path.with_name(f"{path.name}.2")) == [0]


def test_a_gap_in_the_older_files_is_filled_first(path: Path) -> None:
    """What a crash in a rotation left behind costs no file."""
    for number in (2, 3):
        path.with_name(f"{path.name}.{number}").write_text("old\n")
    sink = File(path, max_bytes=200, keep=3)
    assert sink.send(samples(3)).accepted == 3
    assert path.with_name(f"{path.name}.1").exists()
    for number in (2, 3):
        assert path.with_name(f"{path.name}.{number}").read_text() == "old\n"


def test_a_link_is_followed(path: Path) -> None:
    """The file behind a link is the one that is written and rotated; the link stays."""
    real = path.with_name("real")
    path.symlink_to(real)
    assert File(path, max_bytes=200).send(samples(4)).accepted == 4
    assert path.is_symlink()
    assert times(real.with_name("real.1"), path) == [0, 1, 2, 3]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_cannot_say_is_bad(path: Path, value: float) -> None:
    """A number that is none is at fault by itself: those before it are accepted, those behind it wait."""
    for bad in (Sample("x", value, AT, ()), Sample("x", 1, value, ())):
        outcome = File(path).send([*samples(2), bad, *samples(1)])
        assert (outcome.accepted, outcome.verdict, outcome.tried) == (2, Verdict.BAD, 1)
        assert outcome.reason == "A sample of x is not finite; JSON cannot say it."
    assert File(path).send([Sample("x", 1, AT, ("\ud800",))]).verdict is Verdict.BAD


def test_bounds_that_cannot_be_are_refused() -> None:
    """A sink is either usable or a `SinkError`."""
    for arguments in ({"path": ""}, {"path": "x", "max_bytes": 0}, {"path": "x", "keep": 0}):
        with pytest.raises(SinkError, match="file sink"):
            File(**arguments)  # type: ignore[arg-type]


# --- places that cannot be written --------------------------------------------------------------


def is_busy(sink: File, *says: str) -> bool:
    """Whether nothing is accepted, with one sentence that says all of that."""
    outcome = sink.send(samples(2))
    assert (outcome.accepted, outcome.verdict, outcome.tried) == (0, Verdict.BUSY, 2)
    assert all(word in outcome.reason for word in (*says, "Samples cannot be written to "))
    assert outcome.reason.endswith(".")
    assert "\n" not in outcome.reason
    return True


def test_a_place_that_cannot_be_a_file_is_busy(tmp_path: Path) -> None:
    """No folder, a folder, a device, something in a folder's place: one sentence, and nothing is created."""
    (tmp_path / "text").write_text("")
    before = sorted(tmp_path.iterdir())
    assert is_busy(File(tmp_path / "no" / "x"), "No such file", "create its folder")
    assert is_busy(File(tmp_path), "Is a directory", "name a file")
    assert is_busy(File("/dev/null"), "not a regular file")
    assert is_busy(File(tmp_path / "text" / "x"), "Not a directory")
    assert sorted(tmp_path.iterdir()) == before


def test_nobody_waits_at_a_pipe(tmp_path: Path) -> None:
    """A named pipe without a reader is refused at once."""
    os.mkfifo(tmp_path / "pipe")
    assert is_busy(File(tmp_path / "pipe"), "not a regular file")


def test_a_place_without_permission_is_busy(tmp_path: Path) -> None:
    """A folder that may not be written: it says so, and works when it may."""
    me = os.geteuid()
    tmp_path.chmod(0o500)
    try:
        if me == 0:
            os.seteuid(65_534)  # root may write anywhere
        assert is_busy(File(tmp_path / "x"), "Permission denied", "let this user write there")
    finally:
        os.seteuid(me)
        tmp_path.chmod(0o700)
    assert File(tmp_path / "x").send(samples(2)).accepted == 2


def test_a_rotation_that_fails_is_busy_and_loses_nothing(path: Path) -> None:
    """An older file's name is taken by a folder: the file stays as it is, and the sentence names both."""
    sink = File(path, max_bytes=200, keep=1)
    assert sink.send(samples(2)).accepted == 2
    (path.parent / "samples.jsonl.1").mkdir()
    assert is_busy(sink, str(path), f": {path}.1", "Is a directory")
    assert times(path) == [0, 1]


def test_a_full_disk_takes_whole_lines_only(path: Path) -> None:
    """At a real limit of the system: what is accepted is there, no half line, and it goes on later."""
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
sink = File(sys.argv[1])
def go(start, count):
    made = [Sample("esp32.f", 20.0, 1750000000.0 + n, ("name:porch",)) for n in range(start, start + count)]
    return sink.send(made)
print(go(0, 5).accepted, *go(5, 100), sep="|")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(go(5, 100).accepted)
"""
    with child(code, str(path)) as process:
        assert process.stdout
        first, second = process.stdout.read().splitlines()
    assert first.startswith(
        f"5|0|Verdict.BUSY|Samples cannot be written to {path} (File too large);"
    )
    assert "make room there.|100|" in first
    assert second == "100"
    assert times(path) == list(range(105))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_real_full_disk_goes_on_when_there_is_room(tiny_disk: Path) -> None:
    """No space left: whole lines only, whatever was accepted is there, and the rest comes later."""
    path, ballast = tiny_disk / "x", tiny_disk / "ballast"
    ballast.write_bytes(b"x" * 40_000)
    sink, done = File(path), 0
    while (outcome := sink.send(samples(50, done))).accepted:
        done += outcome.accepted
    assert "No space left on device" in outcome.reason
    assert times(path) == list(range(done))
    ballast.unlink()
    assert sink.send(samples(50, done)).accepted == 50
    assert times(path) == list(range(done + 50))


def test_a_read_only_disk_is_busy(tiny_disk: Path) -> None:
    """As after an error of the disk itself."""
    remount = ["mount", "-o", "remount,ro", str(tiny_disk)]
    if subprocess.run(remount, capture_output=True).returncode:
        pytest.skip("this system does not remount")
    assert is_busy(File(tiny_disk / "x"), "Read-only file system")


# --- torn ends ----------------------------------------------------------------------------------

WHOLE = b'{"metric":"esp32.f","value":20.0,"at":1750000007.0,"tags":["name:porch"]}'


@pytest.mark.parametrize("length", range(1, len(WHOLE), 7))
def test_a_torn_line_goes_before_the_next_is_written(path: Path, length: int) -> None:
    """Wherever a crash cut a line: nobody was told that it is there, and it harms no other line."""
    assert File(path).send(samples(2)).accepted == 2
    with path.open("ab") as file:
        file.write(WHOLE[:length])
    assert File(path).send(samples(1, 2)).accepted == 1
    assert times(path) == [0, 1, 2]


def test_a_torn_character_and_missing_blocks_go_too(path: Path) -> None:
    """Half a UTF-8 sequence, and the zeros that a power cut leaves."""
    for torn in (b'{"metric":"caf\xc3', b"\0" * 500, WHOLE[:20] + b"\0" * 30):
        path.write_bytes(WHOLE + b"\n" + torn)
        assert File(path).send(samples(1)).accepted == 1
        assert times(path) == [7, 0]


def test_a_whole_line_without_its_end_gets_one(path: Path) -> None:
    """Only the line's end was lost: the line is kept."""
    path.write_bytes(WHOLE)
    assert File(path).send(samples(1)).accepted == 1
    assert times(path) == [7, 0]


def test_text_that_is_not_ours_is_kept(path: Path) -> None:
    """A file that somebody named by mistake loses nothing."""
    for text in ("export PATH", "x" * 200_000, "a\n  b"):
        path.write_text(text)
        assert File(path).send(samples(1)).accepted == 1
        assert path.read_text().startswith(text + "\n{")


# --- several writers ----------------------------------------------------------------------------

WRITER = """
name, path, keep = sys.argv[1:]
sink = File(path, max_bytes=20_000, keep=int(keep))
print("ready", flush=True)
for start in range(0, 2_000, 25):
    batch = [Sample("m", 1.0, float(n), (f"name:{name}",)) for n in range(start, start + 25)]
    while batch:
        outcome = sink.send(batch)
        assert outcome.accepted, outcome
        batch = batch[outcome.accepted:]
print("done")
"""


def test_processes_share_a_file_and_its_rotation(path: Path) -> None:
    """Three write at once while each rotates below 20 KB: every line once, whole, in its writer's order."""
    writers = [child(WRITER, name, str(path), "99") for name in "abc"]
    for writer in writers:
        out, _ = writer.communicate(timeout=60)
        assert (writer.returncode, out.split()) == (0, ["ready", "done"])
    older = sorted(path.parent.glob("*.jsonl.*"), key=lambda file: -int(file.suffix[1:]))
    assert len(older) > 10
    found: dict[str, list[float]] = {}
    for file in (*older, path):
        assert file.stat().st_size <= 20_000
        for line in file.read_text().splitlines():
            record = json.loads(line)
            found.setdefault(record["tags"][0], []).append(record["at"])
    assert found == {f"name:{name}": [float(n) for n in range(2_000)] for name in "abc"}


def test_a_stopped_writer_does_not_hold_the_others_for_ever(path: Path) -> None:
    """Somebody keeps the lock: busy after a bounded wait, and it says why."""
    code = """
import fcntl
with open(sys.argv[1], "a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", PREAMBLE + code, str(path)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "locked\n"
        assert is_busy(File(path, wait_s=0.2), "another process keeps it locked")
        holder.kill()
    assert File(path).send(samples(2)).accepted == 2


def test_who_waited_while_another_rotated_writes_to_the_new_file(path: Path) -> None:
    """The lock of a file that is no longer the one of that name is worth nothing."""
    path.touch()
    with path.open("a") as held, ThreadPoolExecutor(1) as pool:
        fcntl.flock(held, fcntl.LOCK_EX)
        sending = pool.submit(File(path).send, samples(2))
        deadline = time.monotonic() + 10
        while opened(path) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        path.rename(path.with_name("older"))
        fcntl.flock(held, fcntl.LOCK_UN)
        assert sending.result().accepted == 2
    assert times(path) == [0, 1]
    assert path.with_name("older").read_bytes() == b""


def opened(path: Path) -> int:
    """How many times this process has the file open."""
    count = 0
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            count += os.readlink(fd) == str(path)
    return count


def test_a_file_that_is_taken_away_is_begun_anew(path: Path) -> None:
    """Another program rotates or deletes it: the next samples are in a new file of that name."""
    sink = File(path)
    assert sink.send(samples(1)).accepted == 1
    path.rename(path.with_name("elsewhere"))
    assert sink.send(samples(1, 1)).accepted == 1
    assert times(path) == [1]


def test_killed_writers_leave_what_was_accepted(path: Path) -> None:
    """kill -9 in mid-write, again and again: accepted lines are all there, and no line is half."""
    code = """
sink, start = File(sys.argv[1], max_bytes=300_000, keep=99), int(sys.argv[2])
while True:
    batch = [Sample("m", 1.0, 1750000000.0 + n, ("t:" + "x" * 150,)) for n in range(start, start + 400)]
    assert sink.send(batch).accepted == 400
    start += 400
    print(start, flush=True)
"""
    start = 0
    for turn in range(12):
        with child(code, str(path), str(start)) as writer:
            assert writer.stdout
            start = int(writer.stdout.readline())
            # Not waiting for anything: the kill is to fall anywhere in a write.
            time.sleep(0.0007 * turn)
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split()
            start = int(rest[-1]) if rest else start
    assert File(path).send(samples(1, start)).accepted == 1
    counts: Counter[int] = Counter()
    for file in (path, *path.parent.glob("*.jsonl.*")):
        counts.update(times(file))
    assert all(counts[n] for n in range(start))
