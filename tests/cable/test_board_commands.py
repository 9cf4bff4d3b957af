"""Laws of `espcli board`: from the box to the network, and one sentence for whatever is wrong."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from espnet.cable import flashing
from espnet.cable.image import Image, read
from espnet.cli import cabled
from espnet.errors import CableError
from espnet.simulator import Board, Fleet
from espnet.simulator.chip import image

from .cabling import PATIENCE_S, ROOT, mpremote, status, tool, until
from .conftest import Espcli

SECRETS = ("correct-horse-battery", "the-boards-own-net")


def sentence(done: "subprocess.CompletedProcess[str]", code: int) -> str:
    """The one sentence on stderr; nothing is on stdout."""
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("espcli: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_from_the_box_to_the_network(fresh: Board, espcli: Espcli) -> None:
    """flash, put, provision: the board serves, with its name; no password was shown by anything."""
    at = ("--port", fresh.serial)
    shown = ""
    done = espcli("board", "flash", *at, "--firmware", fresh.image, "--json")
    flashed = json.loads(done.stdout)
    assert (flashed["id"], flashed["flash_bytes"]) == (fresh.id, 4 << 20)
    until("MicroPython boots", lambda: fresh.phase == "halted")
    shown += done.stdout + done.stderr
    done = espcli("board", "put", *at)
    assert done.returncode == 0, done.stderr
    shown += done.stdout + done.stderr
    fresh.wait_ready()
    done = espcli("board", "put", *at, "--json")
    assert json.loads(done.stdout)["sent"] == []
    fresh.wait_ready()
    answers = "\n".join(("greenhouse", *SECRETS)) + "\n"
    words = ("--name", "porch", "--country", "AT", "--zone", "Europe/Vienna")
    done = espcli("board", "provision", *at, *words, "--json", told=answers)
    assert done.returncode == 0, done.stderr
    given = json.loads(done.stdout)
    assert given["ssid"] == "greenhouse"
    assert given["address"] == "127.0.0.1"
    assert given["settings"]["wifi"] == [{"ssid": "greenhouse", "password": True}]
    shown += done.stdout + done.stderr
    fresh.wait_ready()
    assert status(fresh)["id"] == fresh.id
    kept = json.loads((fresh.flash / "settings.json").read_text())
    assert (kept["hostname"], kept["country"], kept["zone"]) == ("porch", "AT", "Europe/Vienna")
    assert kept["wifi"] == [{"ssid": "greenhouse", "password": SECRETS[0]}]
    assert kept["ap"] == {"password": SECRETS[1]}
    for words in (("ls",), ("info",), ("ls", "--json"), ("info", "--json")):
        done = espcli("board", *words, *at)
        assert done.returncode == 0, done.stderr
        shown += done.stdout + done.stderr
        fresh.wait_ready()
    assert "greenhouse" in shown
    assert not [secret for secret in SECRETS if secret in shown + fresh.console]


def test_provisioning_again_keeps_what_is_asked_to_be_kept(
    board: Board, espcli: Espcli, tmp_path: Path
) -> None:
    """A password of true is the one that the board has; what is not there cannot be kept."""
    at = ("--port", board.serial)
    wanted = {"hostname": "attic", "wifi": [{"ssid": "home", "password": SECRETS[0]}]}
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(wanted))
    done = espcli("board", "provision", *at, "--settings", file, told="\n")
    assert done.returncode == 0, done.stderr
    board.wait_ready()
    wanted["wifi"] = [{"ssid": "home", "password": True}, {"ssid": "open", "password": ""}]
    file.write_text(json.dumps(wanted))
    done = espcli("board", "provision", *at, "--settings", file, told="\n")
    assert done.returncode == 0, done.stderr
    board.wait_ready()
    kept = json.loads((board.flash / "settings.json").read_text())
    assert [entry["password"] for entry in kept["wifi"]] == [SECRETS[0], ""]
    assert "ap" not in kept
    file.write_text(json.dumps({"wifi": [{"ssid": "other", "password": True}]}))
    before = (board.flash / "settings.json").read_bytes()
    sentence(espcli("board", "provision", *at, "--settings", file, told="\n"), 2)
    board.wait_ready()
    assert (board.flash / "settings.json").read_bytes() == before


def test_a_network_that_is_not_there_is_said(board: Board, espcli: Espcli) -> None:
    """The settings are kept: the board goes on trying; the command has failed, and says why."""
    try:
        for points, why in (
            ([], "is not in reach"),
            ([{"ssid": "far", "password": "another one"}], "the password"),
        ):
            board.set(wifi=points or False)
            told = f"far\n{SECRETS[0]}\n\n"
            said = sentence(espcli("board", "provision", "--port", board.serial, told=told), 1)
            assert f"far {'does not take ' * (why == 'the password')}{why}" in said
            assert SECRETS[0] not in said
            board.wait_ready()
    finally:
        board.set(wifi=True)
    assert json.loads((board.flash / "settings.json").read_text())["wifi"][0]["ssid"] == "far"


def test_info_and_ls_tell_what_is_there(board: Board, espcli: Espcli) -> None:
    """Version, build and files, as the board itself says them; afterwards it serves again."""
    about = status(board)
    info = json.loads(espcli("board", "info", "--port", board.serial, "--json").stdout)
    assert (info["id"], info["version"], info["build"]) == (
        board.id,
        about["version"],
        about["build"],
    )
    board.wait_ready()
    rows = json.loads(espcli("board", "ls", "--port", board.serial, "--json").stdout)
    assert {row["file"].lstrip("/") for row in rows} == {
        str(path.relative_to(board.flash)) for path in board.flash.rglob("*") if path.is_file()
    }
    board.wait_ready()


def test_reset_restarts_the_board(board: Board, espcli: Espcli) -> None:
    """Another boot of the same board."""
    before = status(board)["boot"]
    assert espcli("board", "reset", "--port", board.serial).returncode == 0
    board.wait_ready()
    assert status(board)["boot"] != before


def has_open(pid: int, port: str) -> bool:
    """Whether the process has the port open."""
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if str(file.readlink()) == port:
                return True
    return False


def test_logs_show_what_the_program_prints_and_disturb_nothing(board: Board) -> None:
    """The board goes on serving; nothing that it prints moves the cursor. Ctrl-C ends it."""
    before = status(board)["boot"]
    name = "\x1b[31mred"
    settings = {"wifi": [{"ssid": name, "password": ""}]}
    (board.flash / "settings.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "espnet.cli", "board", "logs", "--port", board.serial]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        until("it has the port open", lambda: has_open(reader.pid, board.serial))
        assert status(board)["boot"] == before
        board.reset("hard")
        line = next(line for line in reader.stdout if "red" in line)
        assert "\\x1b[31mred" in line
        assert "\x1b" not in line
        reader.send_signal(signal.SIGINT)
        assert reader.wait(timeout=PATIENCE_S) == 130
    assert status(board)["id"] == board.id
    (board.flash / "settings.json").unlink()


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (("flash",), 1, "no board|--port"),
        (("put",), 1, "--port"),
        (("put", "--port", "/dev/nothing-here"), 1, "data lines"),
        (("put", "--port", "/dev/null"), 1, "no serial port"),
        (("put", "--port", ""), 2, "--port"),
        (("put", "now"), 2, "no place"),
        (("put", "--prot", "x"), 2, "no option"),
        (("provision", "--port", "/dev/nothing-here"), 1, "data lines"),
        (("flash", "--port", "/dev/null", "--baud", "fast"), 2, "--baud"),
        (("flash", "--port", "/dev/null", "--baud", "1"), 2, "--baud"),
        (("flash", "--port", "/dev/null", "--no_stub=yes"), 2, "no value"),
        (("flash", "--port", "/dev/null", "--firmware", "nothing.bin"), 1, "does not exist"),
        (("logs", "--port", "/dev/null", "--seconds", "0"), 2, "--seconds"),
        (("logs", "--port", "/dev/null"), 1, "no serial port"),
        (("repl", "--port", "/dev/null"), 1, "no serial port"),
        (("repl", "--json"), 2, "no --json"),
        (("reset", "--port", "/dev/null"), 1, "no serial port"),
        (("firmware", "--port", "/dev/null"), 1, "no serial port"),
        (("fly",), 2, "no command"),
        ((), 2, "missing"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    espcli: Espcli, words: tuple[str, ...], code: int, part: str
) -> None:
    """It says what to check, and the exit code says whose fault it is."""
    said = sentence(espcli("board", *words), code)
    assert any(each in said for each in part.split("|"))


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ('{"wifi": [{"ssid": "home", "password": "hunter2"}]}', "wifi[0].password"),
        ('{"wifi": [{"ssid": "", "password": "hunter22"}]}', "wifi[0].ssid"),
        ('{"hostname": "-porch", "wifi": []}', "hostname"),
        ('{"colour": "red"}', "colour"),
        ('{"watchdog_s": 5}', "watchdog_s"),
        ("{", "JSON"),
    ],
)
def test_bad_settings_never_reach_the_board(
    board: Board, espcli: Espcli, tmp_path: Path, settings: str, field: str
) -> None:
    """The sentence names the field and repeats no password; the board is not even interrupted."""
    file = tmp_path / "settings.json"
    file.write_text(settings)
    before = status(board)["boot"]
    at = ("--port", board.serial)
    said = sentence(espcli("board", "provision", *at, "--settings", file, told="x\n\n\n"), 2)
    assert field in said
    assert "hunter2" not in said
    assert status(board)["boot"] == before


@pytest.mark.parametrize(
    ("name", "data"),
    [("text.bin", b"hello"), ("s3.bin", image(9)), ("cut.bin", image()[:-1]), ("none.bin", b"")],
)
def test_a_wrong_image_is_one_sentence(
    board: Board, espcli: Espcli, tmp_path: Path, name: str, data: bytes
) -> None:
    """And the board goes on as it was."""
    file = tmp_path / name
    file.write_bytes(data)
    done = espcli("board", "flash", "--port", board.serial, "--firmware", file)
    assert "nothing was erased" in sentence(done, 1)
    board.wait_ready()
    assert status(board)["id"] == board.id


def test_a_board_without_micropython_is_said(fresh: Board, espcli: Espcli) -> None:
    """`put` before `flash`: what is missing, and what puts it there."""
    assert "espcli board flash" in sentence(espcli("board", "put", "--port", fresh.serial), 1)


def test_the_image_that_was_fetched_is_found(fresh: Board, espcli: Espcli, tmp_path: Path) -> None:
    """`board flash` without --firmware takes the newest whole one for this chip; without any it says so."""
    at = ("--port", fresh.serial)
    assert "espcli board firmware" in sentence(espcli("board", "flash", *at), 1)
    folder = tmp_path / "data" / "firmware" / "esp32"
    folder.mkdir(parents=True)
    images = {"old": image(), "new": image(what=b"MicroPython, newer"), "s3": image(9), "bad": b"x"}
    for number, (name, data) in enumerate(images.items()):
        (folder / f"{name}.bin").write_bytes(data)
        os.utime(folder / f"{name}.bin", (number, number))
    done = espcli("board", "flash", *at, "--json")
    assert done.returncode == 0, done.stderr
    assert Path(json.loads(done.stdout)["firmware"]).name == "new.bin"


def test_a_board_is_not_let_go_to_choose_its_image(fresh: Board, tmp_path: Path) -> None:
    """Who holds BOOT holds it once: the image is chosen while the loader waits."""
    seen = []

    def choose(chip: flashing.Chip) -> Image:
        seen.append((chip.mac, fresh.phase))
        assert fresh.image is not None
        return read(fresh.image)

    flashing.flash(fresh.serial, choose, lambda what, done, total: None)
    assert seen == [(fresh.id, "loader")]


def test_the_plain_image_that_fits_is_chosen(tmp_path: Path) -> None:
    """Not a variant for other memory, although it came later; one for less flash where the plain one does not
    fit; and none rather than one that would not start."""
    for number, (name, nibble) in enumerate(
        {
            "ESP32_GENERIC-20250101-v1.26.0.bin": 0x20,
            "ESP32_GENERIC-v1.27.0.bin": 0x20,
            "ESP32_GENERIC-D2WD-v1.27.0.bin": 0x10,
            "ESP32_GENERIC-SPIRAM-v1.27.0.bin": 0x10,
        }.items()
    ):
        file = tmp_path / name
        file.write_bytes(image()[:3] + bytes([nibble]) + image()[4:])
        os.utime(file, (number, number))

    def chosen(flash: int) -> str:
        chip = flashing.Chip("ESP32", 0, "ESP32", 301, "", flash)
        return cabled.newest(tmp_path, chip).path.name

    assert chosen(4 << 20) == "ESP32_GENERIC-v1.27.0.bin"
    assert chosen(2 << 20) == "ESP32_GENERIC-D2WD-v1.27.0.bin"
    with pytest.raises(CableError, match="espcli board firmware"):
        chosen(1 << 20)


def test_mpflash_understands_what_it_is_told(tmp_path: Path) -> None:
    """The command that fetches is one of this mpflash's own, with its options."""
    command = [*cabled.download("ESP32_GENERIC", tmp_path), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Download MicroPython firmware" in done.stdout


def test_without_the_internet_fetching_is_one_sentence(
    fresh: Board, espcli: Espcli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens where the program would connect to: it says what to do instead."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        said = sentence(espcli("board", "firmware", "--port", fresh.serial), 1)
    assert "internet" in said
    assert "ESP32_GENERIC" in said


def test_two_commands_at_once_do_not_mix(board: Board, espcli: Espcli) -> None:
    """The second one says that the port is taken."""
    import serial

    with serial.Serial(board.serial, exclusive=True):
        for words in (("put",), ("ls",), ("reset",), ("logs",), ("repl",), ("info",)):
            said = sentence(espcli("board", *words, "--port", board.serial), 1)
            assert "Another program" in said
    assert status(board)["id"] == board.id


def test_simulate_prints_the_port_and_an_image(espcli: Espcli) -> None:
    """`espcli simulate 1 --serial --json`: what the other commands need."""
    command = [sys.executable, "-m", "espnet.cli", "simulate", "1", "--serial", "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as simulator:
        assert simulator.stdout is not None
        told = json.loads(simulator.stdout.readline())
        done = espcli("board", "flash", "--port", told["port"], "--firmware", told["image"])
        assert done.returncode == 0, done.stderr
        assert tool("mpremote", "connect", told["port"], "exec", "1").returncode == 0
        simulator.send_signal(signal.SIGINT)
        assert simulator.wait(timeout=PATIENCE_S) == 0


def test_the_makefile_calls_the_same() -> None:
    """make flash, put … are espcli's words, with PORT, FIRMWARE and NAME."""
    makefile = (ROOT / "Makefile").read_text()
    for target in ("firmware", "flash", "put", "provision", "repl", "ls", "reset", "logs"):
        assert f"./espcli board {target} $(AT)" in makefile
    assert "./espcli board put_app $(AT)" in makefile
    assert "./espcli board put_boot $(AT)" in makefile


def test_a_fleet_of_boards_on_lines_is_told_apart(espcli: Espcli) -> None:
    """Each port is its own board."""
    with Fleet(2, seed=31, serial=True, holds="firmware") as fleet:
        for each in fleet:
            info = json.loads(espcli("board", "info", "--port", each.serial, "--json").stdout)
            assert info["id"] == each.id
        assert mpremote(fleet[0], "exec", "print(1)").strip() == "1"
