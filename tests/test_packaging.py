"""Laws of the package: two lists of dependencies agree, nothing names a machine, the wheel is whole."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
ESPCLI = ROOT / "espcli"


def toml(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / name).read_text(encoding="utf-8"))


def lock() -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((ROOT / "Pipfile.lock").read_text(encoding="utf-8"))
    return answer


def bare(requirement: str) -> str:
    """The name of a requirement, without its version."""
    return re.split(r"[^A-Za-z0-9_.\-]", requirement)[0]


def tracked() -> list[Path]:
    """The files of the repository that hold text."""
    found = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if found.returncode:
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in found.stdout.splitlines() if (ROOT / name).is_file()]


def require(module: str) -> None:
    """A tool that is missing skips a test here and fails it in CI."""
    if importlib.util.find_spec(module) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{module} is missing")


def test_pipfile_and_pyproject_name_the_same_packages() -> None:
    """`make test` runs with what `pip install` brings, but for one shim that old Pythons need."""
    declared = {bare(item) for item in toml("pyproject.toml")["project"]["dependencies"]}
    assert set(toml("Pipfile")["packages"]) - {"async-timeout"} == declared


def test_the_packages_that_the_owner_named_are_there() -> None:
    """fire, redis, requests, datadog, mpremote run it; pytest and fakeredis test it."""
    pipfile = toml("Pipfile")
    assert {"fire", "redis", "requests", "datadog", "mpremote"} <= set(pipfile["packages"])
    assert {"pytest", "fakeredis"} <= set(pipfile["dev-packages"])


def test_no_file_says_where_packages_come_from() -> None:
    """The user's own pip settings decide that: no source in Pipfile, none in its lock."""
    assert "source" not in toml("Pipfile")
    locked = lock()
    assert locked["_meta"]["sources"] == []
    entries = [*locked["default"].values(), *locked["develop"].values()]
    assert not [entry for entry in entries if "index" in entry]


def test_the_lock_belongs_to_the_pipfile() -> None:
    """A Pipfile that was changed without `make lock` would install something else than it says."""
    require("pipenv")
    # Of its own accord it would make, or look for, a venv of its own.
    environ = {**os.environ, "VIRTUAL_ENV": sys.prefix, "PIPENV_VERBOSITY": "-1"}
    environ.pop("PIPENV_PIPFILE", None)
    verify = [sys.executable, "-m", "pipenv", "verify"]
    done = subprocess.run(verify, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_is_locked() -> None:
    """Each has a version and hashes, for production and for development."""
    pipfile, locked = toml("Pipfile"), lock()
    for section, part in (("packages", "default"), ("dev-packages", "develop")):
        for name in pipfile[section]:
            assert locked[part][name]["version"].startswith("==")
            assert locked[part][name]["hashes"]


def test_no_file_names_a_registry_or_a_folder_of_somebodys_machine() -> None:
    """The tree is the same for everybody."""
    # Spelled so that this file does not find itself.
    registry = re.compile("files[.]python" + "hosted[.]org|py" + "pi[.]org/simple|index" + "-url")
    machine = re.compile(r"(?<![\w./-])/" + r"(home/\w+|root/|Users/\w+|work/)")
    wrong = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        wrong += [f"{path}: {m[0]}" for m in (*registry.finditer(text), *machine.finditer(text))]
    assert not wrong


def test_the_wheel_carries_the_firmware_and_the_scripts(tmp_path: Path) -> None:
    """`pip install .` gives boards their files and Redis its scripts, byte for byte."""
    require("hatchling")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*build, "--wheel-dir", tmp_path, ROOT], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("espnet-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for path in (ROOT / "esp32").glob("*.*"):
            assert archive.read(f"espnet/esp32/{path.name}") == path.read_bytes()
        for path in (ROOT / "espnet" / "lua").glob("*.lua"):
            assert archive.read(f"espnet/lua/{path.name}") == path.read_bytes()
        (entry,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert b"espcli = espnet.cli:main" in archive.read(entry)


needs_venv = pytest.mark.skipif(
    not (ROOT / ".venv" / "bin" / "python").exists(), reason="`make setup` has not run here"
)


def version_by(command: Path, folder: Path) -> str:
    done = subprocess.run(
        [command, "--version"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return done.stdout


@needs_venv
def test_espcli_works_from_any_folder_and_through_a_symlink(tmp_path: Path) -> None:
    """Nobody has to activate anything or be anywhere."""
    assert version_by(ESPCLI, tmp_path).startswith("espcli ")
    link = tmp_path / "link"
    link.symlink_to(ESPCLI)
    second = tmp_path / "second"
    second.symlink_to(link)
    assert version_by(second, tmp_path).startswith("espcli ")


@needs_venv
def test_files_of_the_callers_folder_do_not_shadow_modules(tmp_path: Path) -> None:
    """A json.py beside the user is the user's, and not Python's."""
    for name in ("json.py", "redis.py", "espnet.py"):
        (tmp_path / name).write_text("raise SystemExit('shadowed')\n")
    done = subprocess.run(
        [ESPCLI, "devices", "too_many"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("espcli: There is no place for")
