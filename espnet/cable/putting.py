"""A release of the firmware onto a board.

Invariants: at every moment the board boots what it had or the whole of the new release. The slot that boots
is never written to: the other one is filled, its manifest last, and then `boot.json` is replaced, which
names it. What is on the board already, wherever that is, does not travel. The user's own files and settings
stay.
"""

import hashlib
import json
from typing import Any, NamedTuple

from espnet.cable import Progress
from espnet.cable.prompt import File, Prompt
from espnet.errors import CableError
from espnet.firmware import MANIFEST, Release

_SLOTS = ("a", "b")
_RECORD = "/boot.json"
#: The switch in the order in which it is replaced: main.py, which needs the others, is the last.
_LAST = "main.py"
#: What lay in the root before there were slots: no board needs it any more.
_OLD_NAMES = {
    *(
        "auth",
        "bodies",
        "calls",
        "claim",
        "clock",
        "crash",
        "details",
        "fields",
        "flash",
        "hardware",
    ),
    *("http1", "leases", "memory", "version", "web", "wifi"),
}
_OLD = {f"/{name}.mpy" for name in _OLD_NAMES} | {"/ui.html.gz"}
#: Flash is given out in such pieces.
_BLOCK = 4096


class Done(NamedTuple):
    """What was done: the slot that boots next, what travelled and what was removed (paths on the board)."""

    slot: str
    sent: list[str]
    removed: list[str]
    sent_bytes: int


def put(
    prompt: Prompt, release: Release, progress: Progress, *, app: bool = True, switch: bool = True
) -> Done:
    """Puts the release's files (``app``) and its switch on the board. Raises `CableError`."""
    progress("looking at the board", 0, 1)
    work = _Work(prompt, progress)
    slot = work.put_app(release) if app else work.slot
    if switch:
        work.put_switch(release)
    if app and switch:
        work.remove(path for path in sorted(_OLD) if path in work.files)
    return Done(slot, work.sent, work.removed, work.sent_bytes)


def running_slot(prompt: Prompt, files: dict[str, File]) -> str:
    """The slot that boots, as the switch sees it."""
    record = _read_record(prompt) if _RECORD in files else {}
    return _slot(record, files)


class _Work:
    """One board while it is being worked on; ``files`` is what it has at every moment."""

    def __init__(self, prompt: Prompt, progress: Progress) -> None:
        self._prompt, self._progress = prompt, progress
        self.files, self._folders = prompt.files()
        self._record = _read_record(prompt) if _RECORD in self.files else {}
        self.slot = _slot(self._record, self.files)
        self.sent: list[str] = []
        self.removed: list[str] = []
        self.sent_bytes = self._to_send = 0

    def put_app(self, release: Release) -> str:
        """Fills a slot and makes it the one that boots; returns it."""
        holding = [slot for slot in (self.slot, *_SLOTS) if self._holds(slot, release)]
        if holding:
            target = holding[0]
        else:
            target = _other(self.slot) if self._is_whole(self.slot) else self.slot
            self._require_room(target, release)
            if self._record.get("trial"):
                self._write_record({"trial": None, "tries": 0, "wanted": None})
            self._fill(target, release)
        is_settled = self._record.get("slot") == target and not self._record.get("trial")
        if not is_settled:
            previous = _other(target)
            self._write_record(
                {
                    "slot": target,
                    "previous": previous if self._is_whole(previous) else None,
                    "trial": None,
                    "tries": 0,
                    "short": 0,
                    "wanted": None,
                    "undone": None,
                }
            )
        self.slot = target
        return target

    def put_switch(self, release: Release) -> None:
        names = sorted(release.switch, key=lambda name: (name == _LAST, name))
        todo = [n for n in names if not self._has(f"/{n}", release.switch[n])]
        self._to_send += sum(len(release.switch[name]) for name in todo)
        for name in todo:
            self._write(f"/{name}", release.switch[name])

    def remove(self, paths: Any) -> None:
        for path in paths:
            self._prompt.remove(path)
            del self.files[path]
            self.removed.append(path)

    def _is_whole(self, slot: str) -> bool:
        return f"/{slot}/{MANIFEST}" in self.files

    def _holds(self, slot: str, release: Release) -> bool:
        wanted = {**release.files, MANIFEST: release.manifest}
        return all(self._has(f"/{slot}/{name}", data) for name, data in wanted.items())

    def _has(self, path: str, data: bytes) -> bool:
        return path in self.files and self.files[path].sha256 == _sha256(data)

    def _require_room(self, target: str, release: Release) -> None:
        """Refuses before anything is changed."""
        there = [file.size for path, file in self.files.items() if path.startswith(f"/{target}/")]
        free = self._prompt.free() + sum(map(_blocks, there))
        need = sum(_blocks(len(data)) for data in release.files.values()) + 8 * _BLOCK
        if need > free:
            raise CableError(
                "flash",
                f"The release takes {need:,} bytes of flash beside the one that runs, and {free:,} can be "
                "had; `espcli board ls` shows what is there: remove files of your own, or flash it anew.",
            )

    def _fill(self, slot: str, release: Release) -> None:
        folder = f"/{slot}"
        if folder not in self._folders:
            self._prompt.make_folder(folder)
        manifest = f"{folder}/{MANIFEST}"
        if manifest in self.files:  # first of all: from now on it is not whole
            self._prompt.remove(manifest)
            del self.files[manifest]
        wanted = {f"{folder}/{name}": data for name, data in release.files.items()}
        strange = [p for p in self.files if p.startswith(folder + "/") and p not in wanted]
        self.remove(strange)
        here = {file.sha256: path for path, file in self.files.items()}
        todo = {path: data for path, data in wanted.items() if not self._has(path, data)}
        new = {path: data for path, data in todo.items() if _sha256(data) not in here}
        self._to_send += sum(map(len, new.values()))
        for path, data in todo.items():
            if path in new:
                self._write(path, data)
            else:
                self._prompt.copy(here[_sha256(data)], path)
        self._verify(wanted)
        self._prompt.write(manifest, release.manifest)
        self._note(manifest, release.manifest)

    def _verify(self, wanted: dict[str, bytes]) -> None:
        """As the board reads them now; the manifest says that this was so."""
        self.files, self._folders = self._prompt.files()
        for path, data in wanted.items():
            if not self._has(path, data):
                raise CableError(
                    "failed",
                    f"{path} is not on the board as it was sent: its flash may be worn out; repeat the "
                    "command. The release that was there still boots.",
                )

    def _write(self, path: str, data: bytes) -> None:
        def told(size: int) -> None:
            self.sent_bytes += size
            self._progress(f"sending {path}", self.sent_bytes, self._to_send)

        self._progress(f"sending {path}", self.sent_bytes, self._to_send)
        self._prompt.write(path, data, told)
        self._note(path, data)
        self.sent.append(path)

    def _write_record(self, changes: dict[str, Any]) -> None:
        self._record |= changes
        data = json.dumps(self._record).encode()
        self._prompt.write(_RECORD, data)
        self._note(_RECORD, data)

    def _note(self, path: str, data: bytes) -> None:
        self.files[path] = File(_sha256(data), len(data))


def _slot(record: dict[str, Any], files: dict[str, File]) -> str:
    if record.get("slot") in _SLOTS:
        return str(record["slot"])
    is_whole = {slot: f"/{slot}/{MANIFEST}" in files for slot in _SLOTS}
    return "a" if is_whole["a"] or not is_whole["b"] else "b"


def _read_record(prompt: Prompt) -> dict[str, Any]:
    """The switch's record; what is damaged is none."""
    try:
        record = json.loads(prompt.read(_RECORD))
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _other(slot: str) -> str:
    return "b" if slot == "a" else "a"


def _blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
