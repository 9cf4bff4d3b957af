"""The stand-in hardware, seen by a program on the board and by the outside."""

import ast
import json
import re
import time
from pathlib import Path

import pytest

from espnet.simulator import Board, Fleet, SimulatorError, network, state

from .probing import Client, until

HARDWARE = Path(state.__file__).with_name("hardware")


@pytest.fixture(autouse=True)
def fresh(board: Board, client: Client):
    """Every test begins with pads as after a reset."""
    yield
    board.reset()


def test_both_sides_agree_where_things_lie():
    """Every address in the stand-ins is one that state.py documents."""
    documented = {int(n) for n in re.findall(r"\b(\d+)(?:: | {2,})", state.__doc__ or "")}
    places = {
        "_CAUSE", "_NEXT_CAUSE", "_PHASE", "_ANY_FAULT", "_REFUSE", "_PORT", "_ID", "_LOG_COUNT",
        "_OPEN", "_BUSY", "_LOG", "_SLOTS", "_PINS", "_RTC_MEMORY", "_HISTORY", "_HISTORY_COUNT",
        "_RANDOM", "_RTC_OFFSET", "_WDT_MS", "_WDT_FED", "_WIFI", "_WIFI_ACTIVE", "_RSSI",
        "_BOARD_CENTI_C", "_SPEED", "_NET_POINTS", "_NET_ADDRESS", "_NET_STATIC", "_NET_JOINED",
        "_NET_HOSTNAME", "_NET_COUNTRY", "_NET_AP", "_NET_AP_MODE", "_NET_AP_SSID", "_NET_BEACON",
        "_NET_DNS", "_NET_NTP", "_NET_ASKED_DNS", "_NET_ASKED_NTP",
    }  # fmt: skip
    seen: dict[str, int] = {}
    for path in HARDWARE.glob("*.py"):
        for name, value in re.findall(r"^(_\w+) = const\((\d+)\)", path.read_text(), re.M):
            if name in places:
                assert seen.setdefault(name, int(value)) == int(value), f"{name} in {path.name}"
    assert set(seen) == places
    assert set(seen.values()) <= documented


def test_both_sides_agree_on_the_numbers_of_faults():
    """The names of faults in the stand-ins' constants have state.py's numbers."""
    names = {"ERROR": "http_500", "MISSING": "missing_keys"}
    found: set[tuple[str, int]] = set()
    for file, first, after in (
        ("_faults.py", "_HANG", "_CLOSED"),
        ("socket.py", "_HANG_BODY", "_IDLE"),
    ):
        text = (HARDWARE / file).read_text()
        block = text[text.index(first + " = ") : text.index(after + " = ")]
        constants = re.findall(r"^_([A-Z_]+) = const\((\d+)\)", block, re.M)
        found |= {(names.get(n, n.lower()), int(v)) for n, v in constants}
    assert found == {(kind, number) for kind, number in state.FAULTS.items() if number <= 11}


def test_both_sides_agree_on_what_servers_answer():
    """The names of answers in the stand-ins' constants have network.py's numbers, those of DNS first."""
    text = (HARDWARE / "_wire.py").read_text()
    constants = re.findall(r"^_([A-Z]\w+) = const\((\d)\)", text, re.M)
    found = [(name.lower(), int(number)) for name, number in constants]
    dns = [item for item in network.DNS.items() if item[1]]
    assert found == dns + [item for item in network.NTP.items() if item[1] > 2]


def test_stand_ins_import_nothing_that_a_board_lacks():
    """What the stand-ins import exists on the unix port: they are MicroPython."""
    known = {
        "asyncio", "binascii", "gc", "io", "json", "micropython", "os", "struct", "sys", "time",
        "uctypes", "umachine", "uselect", "usocket", "utime", "vfs",
    } | {path.stem for path in HARDWARE.glob("*.py")}  # fmt: skip
    for path in HARDWARE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= known
            elif isinstance(node, ast.ImportFrom):
                assert node.module in known


def test_the_firmware_cannot_tell_where_it_runs(client: Client):
    """The board sees its flash as `/` and ESP32's module path."""
    assert client.exec("import sys, os\nr = [sys.path, sys.argv, sorted(os.listdir('/'))]") == [
        ["", ".frozen", "/lib"],
        [""],
        ["main.py"],
    ]
    client.exec("with open('note', 'w') as f: f.write('hello')")
    assert client.exec("r = open('/note').read()") == "hello"


def test_pins_that_exist_are_those_of_the_esp32(client: Client):
    """Pins 20, 24, 28-31 and 40 do not exist."""
    found = client.exec(
        "r = []\n"
        "for n in range(-1, 42):\n"
        "    try: machine.Pin(n); r.append(n)\n"
        "    except ValueError: pass"
    )
    assert tuple(found) == state.PINS


def test_an_output_drives_its_pad_whatever_the_outside_does(board: Board, client: Client):
    """An output reads back its own level and is driven by the board."""
    board.set(pins={4: 0})
    assert client.exec("p = machine.Pin(4, machine.Pin.OUT, value=1)\nr = p.value()") == 1
    assert (board.pin(4).level, board.pin(4).mode, board.pin(4).driver) == (1, "out", "board")
    client.exec("p.toggle()")
    assert board.pin(4).level == 0
    board.set(pins={4: None})


@pytest.mark.parametrize(
    ("pull", "outside", "level", "driver"),
    [
        ("None", None, 0, "nobody"),
        ("machine.Pin.PULL_UP", None, 1, "pull"),
        ("machine.Pin.PULL_DOWN", None, 0, "pull"),
        ("machine.Pin.PULL_UP", 0, 0, "outside"),
        ("None", 1, 1, "outside"),
    ],
)
def test_an_input_follows_the_outside_then_its_pull(
    board: Board, client: Client, pull, outside, level, driver
):
    """Outside beats pull, and what floats reads 0."""
    board.set(pins={4: outside})
    assert client.exec(f"r = machine.Pin(4, machine.Pin.IN, {pull}).value()") == level
    assert (board.pin(4).level, board.pin(4).driver) == (level, driver)
    board.set(pins={4: None})


def test_open_drain_pulls_low_or_lets_go(board: Board, client: Client):
    """An open-drain pin at 1 shows what its surroundings say; at 0 it wins."""
    board.set(pins={4: 1})
    program = "p = machine.Pin(4, machine.Pin.OPEN_DRAIN, value=1)\nr = [p.value()]\n"
    assert client.exec(program + "p.off()\nr.append(p.value())") == [1, 0]
    board.set(pins={4: None})


def test_reading_a_pin_does_not_configure_it(board: Board, client: Client):
    """`Pin(n)` without a mode leaves an output an output."""
    client.exec("machine.Pin(4, machine.Pin.OUT, value=1)")
    assert client.exec("r = machine.Pin(4).value()") == 1
    assert client.exec("r = machine.Pin(5).value()") == 0
    assert board.pin(5).mode == "unset"


def test_registers_show_what_pins_show(board: Board, client: Client):
    """GPIO_IN and GPIO_IN1 have the level of every pad, GPIO_ENABLE and GPIO_ENABLE1 whether it is driven."""
    board.set(pins={5: 1, 36: 1, 39: 1, 13: 1})
    program = (
        "machine.Pin(0, machine.Pin.OUT, value=1)\nmachine.Pin(33, machine.Pin.OUT, value=1)\n"
        "machine.Pin(13, machine.Pin.OPEN_DRAIN, value=0)\n"
        "machine.Pin(27, machine.Pin.IN, machine.Pin.PULL_UP)\n"
        "r = [machine.mem32[a] for a in (0x3FF4403C, 0x3FF44040, 0x3FF44020, 0x3FF4402C)]"
    )
    low, high, enabled, enabled_high = client.exec(program)
    levels, driven = low | high << 32, enabled | enabled_high << 32
    shown = [board.pin(pin) for pin in state.PINS]
    assert levels == sum(1 << pin.pin for pin in shown if pin.level)
    assert driven == sum(1 << pin.pin for pin in shown if pin.mode in ("out", "open_drain"))
    assert levels & (1 << 0 | 1 << 5 | 1 << 27 | 1 << 33 | 1 << 39) == levels & ~(1 << 36)
    with pytest.raises(RuntimeError, match="KeyError"):
        client.exec("r = machine.mem32[0x3FF44004]")
    board.set(pins=dict.fromkeys((5, 36, 39, 13)))


@pytest.mark.parametrize("pin", [34, 36, 39])
def test_input_only_pins_cannot_be_outputs(client: Client, pin: int):
    """Pins 34-39 raise what the ESP32 raises."""
    with pytest.raises(RuntimeError, match="ValueError: pin can only be input"):
        client.exec(f"machine.Pin({pin}, machine.Pin.OUT)")


def test_flash_pins_must_not_be_driven(client: Client):
    """Driving a pin of the flash chip would kill a board, so it raises; reading is harmless."""
    assert client.exec("r = machine.Pin(6).value()") == 0
    with pytest.raises(RuntimeError, match="flash"):
        client.exec("machine.Pin(6, machine.Pin.OUT)")


def test_adc_reads_what_was_set_within_its_noise(board: Board, client: Client):
    """The raw value, scaled for read_u16; noise stays within its bound and is not constant."""
    board.set(adc={36: 2048})
    assert client.exec("a = machine.ADC(machine.Pin(36))\nr = [a.read(), a.read_u16()]") == [
        2048,
        2048 << 4 | 2048 >> 8,
    ]
    board.set(adc={36: {"value": 2048, "noise": 10}})
    values = client.exec("r = [a.read() for _ in range(200)]")
    assert 2038 <= min(values) < max(values) <= 2058
    board.set(adc={36: 0})


def test_the_second_converter_is_the_radio_s_while_wifi_is_on(client: Client):
    """ADC2 pins raise while the station is active, as on the chip; pin 16 has no converter."""
    program = "import network\nw = network.WLAN(network.STA_IF)\nw.active({})\n"
    read = "r = machine.ADC(25).read()"
    assert client.exec(program.format(False) + read) == 0
    with pytest.raises(RuntimeError, match="OSError"):
        client.exec(program.format(True) + read)
    with pytest.raises(RuntimeError, match="ValueError"):
        client.exec("machine.ADC(16)")


def test_dht_shows_what_was_plugged_in(board: Board, client: Client):
    """An absent DHT times out; a present one shows tenths, below zero too."""
    read = "import dht\ns = dht.DHT22(machine.Pin(4))\ns.measure()\nr = [s.temperature(), s.humidity()]"
    with pytest.raises(RuntimeError, match="OSError"):
        client.exec(read)
    board.set(dht={4: {"temp": -12.3, "humidity": 61.5}})
    assert client.exec(read) == [-12.3, 61.5]
    board.set(dht={4: None})
    with pytest.raises(RuntimeError, match="OSError"):
        client.exec(read)


def test_board_temperature_is_fahrenheit_on_the_original_chip(board: Board, client: Client):
    """raw_temperature is an integer of °F, and this chip has no mcu_temperature."""
    board.set(board_c=50)
    found = client.exec(
        "import esp32\nr = [esp32.raw_temperature(), hasattr(esp32, 'mcu_temperature')]"
    )
    assert found == [122, False]


def test_the_station_is_connected_while_there_is_a_network(board: Board, client: Client):
    """WLAN follows the outside's Wi-Fi and reports its strength."""
    start = "import network\nw = network.WLAN(0)\nw.active(True)\nw.connect('a', 'b')\n"
    board.set(rssi=-71)
    assert client.exec(start + "r = [w.isconnected(), w.status('rssi')]") == [True, -71]
    board.set(wifi=False)
    assert client.exec("r = [w.isconnected(), w.ifconfig()[0]]") == [False, "0.0.0.0"]
    board.set(wifi=True)


def test_irqs_and_timers_call_back_while_the_program_waits(board: Board, client: Client):
    """Edges and periods reach their callbacks."""
    client.exec(
        "seen = []\n"
        "machine.Pin(4, machine.Pin.IN).irq(lambda p: seen.append(p.value()))\n"
        "t = machine.Timer(0)\n"
        "ticks = []\n"
        "t.init(period=5, callback=lambda t: ticks.append(1))"
    )
    board.set(pins={4: 1})
    until(lambda: client.exec("r = seen") == [1], "a rising edge")
    board.set(pins={4: 0})
    until(lambda: client.exec("r = seen") == [1, 0], "a falling edge")
    until(lambda: client.exec("r = len(ticks)") > 3, "several periods")
    board.set(pins={4: None})


def test_rtc_memory_survives_a_reset_and_not_a_power_cut(board: Board, client: Client):
    """The RTC's memory is what a board may keep without flash."""
    client.exec("machine.RTC().memory(b'kept')")
    board.reset("hard")
    client.close()
    assert client.exec("r = machine.RTC().memory().decode()") == "kept"
    board.reset("power")
    client.close()
    assert client.exec("r = machine.RTC().memory().decode()") == ""


@pytest.mark.parametrize("cause", ["power", "hard", "watchdog", "soft"])
def test_a_reset_keeps_who_the_board_is_and_loses_its_pins(
    board: Board, client: Client, cause: str
):
    """Same id, address and flash; a new boot; pins low but after a soft reset; inputs as driven."""
    board.set(pins={5: 1})
    client.exec(
        "machine.Pin(2, machine.Pin.OUT, value=1)\nwith open('kept', 'w') as f: f.write('x')"
    )
    before = json.loads(client.ask()[1])
    pid = board.pid
    board.reset(cause)
    client.close()
    after = json.loads(client.ask()[1])
    assert after["id"] == before["id"] == board.id
    assert after["boot"] != before["boot"]
    assert board.pid != pid
    assert board.reset_cause == cause
    assert client.exec("r = machine.reset_cause()") == state.CAUSES[cause]
    assert board.pin(2).level == (1 if cause == "soft" else 0)
    assert board.pin(5).level == 1
    assert (board.flash / "kept").read_text() == "x"
    board.set(pins={5: None})


def test_the_board_can_reset_itself_and_nothing_on_it_can_prevent_that(
    board: Board, client: Client
):
    """machine.reset() ends everything at once, a bare except included, and the port is free again: nothing
    outlives the board, however often."""
    for _ in range(50):
        boots = board.boots
        client.http.request(
            "POST", "/exec", "while True:\n    try: machine.reset()\n    except: pass"
        )
        until(lambda: board.boots > boots, "a new boot")  # noqa: B023
        board.wait_ready()
        assert board.reset_cause == "hard"
        client.close()


def test_the_watchdog_ends_a_program_that_hangs(board: Board, client: Client):
    """Unfed for its time-out, it resets even `while True: pass`; the cause tells."""
    client.exec("w = machine.WDT(timeout=2000)")
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        client.exec("w.feed()")
    boots = board.boots
    client.http.request(
        "POST", "/exec", "while True:\n    try:\n        while True: pass\n    except: pass"
    )
    until(lambda: board.boots > boots, "the watchdog's reset")
    board.wait_ready()
    assert board.reset_cause == "watchdog"


def test_a_program_that_ends_leaves_a_board_that_only_a_reset_revives(
    fleet: Fleet, board: Board, client: Client
):
    """A real board sits at its prompt then; the traceback is on its console."""
    client.http.request("GET", "/raise")
    until(lambda: board.phase == "halted", "the board halts")
    assert (board.id, "halted") in [event[:2] for event in fleet.events]
    assert "CancelledError" in board.console
    with pytest.raises(ConnectionRefusedError):
        Client(board).ask()
    board.reset()
    client.close()
    assert client.ask()[0] == 200


def test_power_off_is_off_until_power_on(board: Board, client: Client):
    """Without power there is no process and no pin is high; on, it starts as from cold."""
    client.exec("machine.Pin(2, machine.Pin.OUT, value=1)")
    board.power(False)
    assert (board.phase, board.pid, board.pin(2).level) == ("off", 0, 0)
    with pytest.raises(ConnectionRefusedError):
        Client(board).ask()
    board.power(True)
    assert board.reset_cause == "power"
    client.close()
    assert client.ask()[0] == 200


def test_the_heap_limit_is_imposed(client: Client):
    """A program that takes more than the heap gets MemoryError, and the board lives."""
    taken = client.exec(
        "import gc\n"
        "hoard = []\n"
        "try:\n"
        "    while True: hoard.append(bytearray(1024))\n"
        "except MemoryError: r = len(hoard)\n"
        "hoard = None\n"
        "gc.collect()"
    )
    assert 60 < taken < 160
    assert client.exec("r = gc.mem_alloc() + gc.mem_free()") < 160 * 1024


def test_what_cannot_be_set_is_refused_and_nothing_is_set(board: Board):
    """A request with one bad part changes nothing."""
    for values in (
        {"pins": {"4": 2}},
        {"pins": {"20": 1}},
        {"pins": [4]},
        {"pins": {"5": 1, "4": "1"}},
        {"adc": {"36": 4096}},
        {"adc": {"36": {"volts": 1}}},
        {"adc": {"36": float("nan")}},
        {"dht": {"4": {"temp": 200}}},
        {"dht": {"4": "warm"}},
        {"board_c": "hot"},
        {"rssi": 3},
        {"wifi": 1},
        {"room": {"walls": 4}},
        {"room": {"time_constant_h": 0}},
        {"room": {"heater_pin": 20}},
        {"colour": "red"},
    ):
        with pytest.raises(SimulatorError):
            board.set(**{"pins": {"5": 1}} | values if "pins" not in values else values)
    assert board.pin(5).outside is None
