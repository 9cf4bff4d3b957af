"""What the words of `espcli board` need beside the cable: questions, progress bars, other programs, files."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from espnet.cli.parse import quoted
from espnet.errors import CableError, UsageError

if TYPE_CHECKING:
    from espnet.cable import Progress
    from espnet.cable.flashing import Chip
    from espnet.cable.image import Image
    from espnet.cable.prompt import Prompt
    from espnet.settings import Settings

#: Under which name MicroPython's downloads go for a chip, by the chip's number.
_BOARDS = {
    0: "ESP32_GENERIC",
    2: "ESP32_GENERIC_S2",
    5: "ESP32_GENERIC_C3",
    9: "ESP32_GENERIC_S3",
    12: "ESP32_GENERIC_C2",
    13: "ESP32_GENERIC_C6",
    23: "ESP32_GENERIC_C5",
}
#: Variants that a board without what they are for cannot use, or that leave less room.
_STRANGE = ("-SPIRAM", "-UNICORE", "-OTA")
_FETCH_S = 300


@contextmanager
def progress() -> Iterator["Progress"]:
    """A bar on the terminal's error output; where that is no terminal, nothing."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    # Networks may be called [red].
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("looking for the board", total=None)

        def told(what: str, done: int, total: int) -> None:
            is_long = total > 1
            bars.update(
                bar,
                description=what,
                completed=done,
                total=total if is_long else None,
            )

        yield told


def run(*words: str) -> int:
    """Runs a tool of this Python in our place, at our terminal."""
    return subprocess.call([sys.executable, "-P", "-m", *words])


def fetch(port: str, folder: Path) -> dict[str, Any]:
    """Has mpflash download the stable image for the chip at the port; raises `CableError`."""
    from espnet.cable import flashing

    with progress() as told:
        chip = flashing.look(port)
        told(f"fetching MicroPython for {chip.name}", 0, 1)
        return _fetched(chip, folder)


def _fetched(chip: "Chip", folder: Path) -> dict[str, Any]:
    board = _BOARDS.get(chip.chip_id)
    if board is None:
        raise CableError("download", f"There is no known image for {chip.name}; fetch one by hand.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise CableError("download", f"{folder} cannot be made: {e.strerror}.") from e
    before = _stamps(folder)
    try:
        done = subprocess.run(
            download(board, folder),
            capture_output=True,
            timeout=_FETCH_S,
            stdin=subprocess.DEVNULL,
        )
        code = done.returncode
    except subprocess.TimeoutExpired:
        code = -1
    try:
        found = newest(folder, chip)
    except CableError:
        found = None
    # mpflash does not tell by its exit code that nothing came.
    if found is None or code or _stamps(folder) == before:
        raise CableError(
            "download",
            f"No image for {chip.name} could be fetched: this step needs the internet. Without it, bring "
            f"MicroPython's {board} image (.bin) here another way, and name it: `espcli board flash "
            "--firmware FILE`.",
        )
    return {"chip": chip.description, "image": str(found.path), "bytes": len(found.data)}


def download(board: str, folder: Path) -> list[str]:
    """The command that has mpflash fetch a board's images; what is there already comes anew."""
    # Where its database lies, mpflash decides before it reads --dir: else in the user's downloads.
    command = ["env", f"MPFLASH_FIRMWARE={folder}", sys.executable, "-P", "-m", "mpflash.cli_main"]
    command += ["-q", "-x", "--dir", str(folder)]
    return [*command, "download", "--force", "--version", "stable", "--board", board]


def _stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.bin") if path.is_file()}


def newest(folder: Path, chip: "Chip") -> "Image":
    """The newest whole image for the chip in a folder; raises `CableError`.

    A chip's images come with variants, for other flash or more memory. The plain one is taken, unless it
    expects more flash than there is; then the variant for less.
    """
    from espnet.cable import image

    stamps = _stamps(folder) if folder.is_dir() else {}
    plain = re.compile(rf"{_BOARDS.get(chip.chip_id)}(-\d{{8}})?-v")

    def rank(path: Path) -> tuple[bool, bool, bool, int]:
        is_plain = plain.match(path.name) is not None
        is_strange = any(word in path.name for word in _STRANGE)
        return is_plain, "-FLASH_" in path.name, not is_strange, stamps[path]

    for path in sorted(stamps, key=rank, reverse=True):
        try:
            found = image.read(path)
        except CableError:
            continue
        if found.chip_id == chip.chip_id and found.flash <= chip.flash:
            return found
    raise CableError(
        "image",
        f"There is no image for {chip.description} yet: `espcli board firmware` fetches it, or name one "
        "with --firmware.",
    )


@contextmanager
def checked_port(port: str) -> Iterator[None]:
    """Nobody types a password for a port that is not there."""
    from espnet.cable import ports

    ports.require(port)
    yield


def wanted(
    name: str, file: str, country: str, zone: str, local_zone: Callable[[], str]
) -> "Settings":
    """The settings that words, file and answers make; raises `UsageError`."""
    from espnet import settings

    given = settings.parse(_contents(file)) if file else settings.Settings()
    changes: dict[str, Any] = {"hostname": name, "country": country, "zone": zone}
    fields = {key: value for key, value in changes.items() if value}
    if not given.zone and not zone:
        fields["zone"] = local_zone()
    settings.check(msgspec.structs.replace(given, **fields))  # before anything is asked
    if not given.wifi:
        ssid = _answer("Name of the Wi-Fi (SSID)")
        fields["wifi"] = (settings.Network(ssid),)
    if not given.ap:
        fields["ap"] = settings.AccessPoint()
    made = msgspec.structs.replace(given, **fields)
    settings.check(made)
    return _with_passwords(made)


def _with_passwords(made: "Settings") -> "Settings":
    from espnet import settings

    networks = []
    for network in made.wifi or ():
        if network.password is msgspec.UNSET:
            password = _secret(f"Password of {network.ssid} (empty: it has none)")
            network = msgspec.structs.replace(network, password=password)
        networks.append(network)
    made = msgspec.structs.replace(made, wifi=tuple(networks))
    settings.check(made)
    if made.ap and made.ap.password is msgspec.UNSET:
        password = _secret(
            "Password of the Wi-Fi that the board opens while it finds none (empty: never)"
        )
        point = settings.AccessPoint(password) if password else msgspec.UNSET
        made = msgspec.structs.replace(made, ap=point)
    settings.check(made)
    return made


def _contents(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else "no such path"
        raise UsageError(f"{quoted(file)} cannot be read: {reason}.") from e


def _answer(question: str) -> str:
    if sys.stdin is not None and sys.stdin.isatty():
        print(f"{question}: ", end="", file=sys.stderr, flush=True)
    text = _line()
    if not text:
        raise UsageError(f"{question} is missing; type it, or write it to standard input.")
    return text


def _secret(question: str) -> str:
    if sys.stdin is not None and sys.stdin.isatty():
        import getpass

        try:
            return getpass.getpass(f"{question}: ")
        except EOFError:
            return ""
        except KeyboardInterrupt:
            print(file=sys.stderr)
            raise
    return _line()


def _line() -> str:
    try:
        return sys.stdin.readline().rstrip("\r\n") if sys.stdin is not None else ""
    except UnicodeError:
        raise UsageError("What was given is not UTF-8 text.") from None


def board_id(board: "Prompt") -> str:
    return str(board.ask("binascii.hexlify(machine.unique_id()).decode()"))


def about(board: "Prompt") -> dict[str, Any]:
    """What the board is, and what is on it; nothing secret."""
    from espnet import firmware
    from espnet.cable import putting, setup
    from espnet.errors import EspNetError

    files, _ = board.files()
    slot = putting.running_slot(board, files)
    version = build = None
    path = f"/{slot}/{firmware.MANIFEST}"
    if path in files:
        manifest = board.read(path)
        build = firmware.build_of(manifest)
        try:
            version, _ = firmware.read_manifest(manifest)
        except EspNetError:
            build = None
    hostname, networks = setup.names(board)
    return {
        "id": board_id(board),
        "micropython": board.ask("'.'.join(map(str, __import__('sys').implementation[1][:3]))"),
        "version": version,
        "build": build,
        "slot": slot if version else None,
        "name": hostname or None,
        "wifi": networks,
        "claimed": "/claim.json" in files,
        "files": len(files),
        "free_bytes": board.free(),
    }
