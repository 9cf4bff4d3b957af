"""Debian packages for the bench, unpacked below ``build/``: nothing is installed and no service is started.

apt finds, fetches and checks them, as anybody may ask it to: being root is not needed. What a system has
already is used as it is.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent / "build" / "bench"
UNPACKED = ROOT / "debian"
#: How long apt may take for one thing, in seconds.
PATIENCE_S = 120.0


class NotThere(Exception):
    """A package cannot be had; the reason."""


def program(name: str) -> Path | None:
    """A program, installed or unpacked here."""
    folders = [str(UNPACKED / "usr" / folder) for folder in ("bin", "sbin")]
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", *folders])
    found = shutil.which(name, path=path)
    return Path(found) if found else None


def file(pattern: str) -> Path | None:
    """A file below /, installed or unpacked here."""
    return next((path for root in (Path("/"), UNPACKED) for path in root.glob(pattern)), None)


def environment() -> dict[str, str]:
    """Where programs that were unpacked here find their libraries."""
    folders = [str(folder) for folder in UNPACKED.glob("usr/lib/*-linux-gnu*")]
    if "LD_LIBRARY_PATH" in os.environ:
        folders.append(os.environ["LD_LIBRARY_PATH"])
    return {"LD_LIBRARY_PATH": os.pathsep.join(folders)} if folders else {}


def suggested(package: str, names: str) -> list[str]:
    """What a package can do with, but does not need: those whose whole name ``names`` matches."""
    told = _apt("apt-cache", "depends", package)
    found = re.findall(r"^\W*(?:Suggests|Recommends): (\S+)$", told, re.MULTILINE)
    return [name for name in found if re.fullmatch(names, name)]


def unpack(*packages: str) -> None:
    """Fetches packages, and the libraries that they need and the system has not. Raises `NotThere`."""
    options = ("--simulate", "--no-install-recommends")
    told = _apt("apt-get", "install", *options, *packages)
    # "Inst NAME [INSTALLED VERSION] (NEW VERSION …": what is installed is new enough.
    missing = re.findall(r"^Inst (\S+) \(", told, re.MULTILINE)
    wanted = [name for name in missing if name in packages or re.match(r"lib(?!js-)", name)]
    archives = ROOT / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    if wanted:
        _apt("apt-get", "download", *wanted, folder=archives)
    for archive in sorted(archives.glob("*.deb")):
        _run("dpkg-deb", "--extract", str(archive), str(UNPACKED))
        archive.unlink()


def _apt(*command: str, folder: Path | None = None) -> str:
    if shutil.which(command[0]) is None:
        raise NotThere(f"there is no {command[0]} on this system")
    try:
        return _run(*command, folder=folder)
    except NotThere:
        # Containers come without apt's lists: then it gets some of our own, kept here.
        own, *_ = folders = [ROOT / "apt" / "lists", ROOT / "apt" / "cache"]
        options = [
            f"--option=Dir::{what}={path}"
            for what, path in zip(("State::lists", "Cache"), folders, strict=True)
        ]
        if not any(own.glob("*Packages*")):
            for path in (own / "partial", folders[1] / "archives" / "partial"):
                path.mkdir(parents=True, exist_ok=True)
            _run("apt-get", "update", *options)
        name, *arguments = command
        return _run(name, *options, *arguments, folder=folder)


def _run(*command: str, folder: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise NotThere(f"there is no {command[0]} on this system") from error
    except subprocess.TimeoutExpired as error:
        raise NotThere(f"{command[0]} did not end in {PATIENCE_S:.0f} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E: ")]
        raise NotThere(f"{command[0]} says “{(lines or ['nothing'])[0].removeprefix('E: ')}”")
    return done.stdout
