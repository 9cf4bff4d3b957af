"""docs/simulator.md says what the simulator does: every example works, nothing is left out."""

import dataclasses
import inspect
import json
import re
from pathlib import Path

import pytest

from espnet.simulator import Board, Control, Room, Simulator, control, state
from espnet.simulator.light import LightFleet, LightRequest, LightSimulator, PinChange
from espnet.simulator.light import control as light

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")


def first_cells(title: str) -> set[str]:
    """The names in code in the first column of the tables of a section."""
    section = re.split(r"^## ", TEXT.split(f"## {title}\n")[1], flags=re.M)[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


EXAMPLES = [
    line
    for line in TEXT.split("## Light boards")[0].splitlines()
    if re.match(r'\{"(set|fault|clear|reset|power|get)"', line)
]


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_is_accepted(board: Board, line: str):
    """Each line of JSON in the protocol's description is answered with ok."""
    with Control(board.control) as client:
        client.ask(json.loads(line))
        client.clear()
        client.power(True)
        client.set(room=None, wifi=True, address="127.0.0.1", ntp="good", dns="good", speed=1)
        client.set(pins={"5": None}, dht={"4": None}, adc={"36": 0, "39": 0})


def test_every_verb_has_an_example():
    """The examples show all verbs."""
    assert {next(iter(json.loads(line))) for line in EXAMPLES} == set(control._VERBS)


def test_every_fault_is_described():
    """The table of faults is the program's own."""
    assert first_cells("Faults") == set(state.FAULTS)


def test_every_setting_of_a_room_is_described():
    """The table of the room has each field of `Room`."""
    assert first_cells("The room") == {field.name for field in dataclasses.fields(Room)}


def test_everything_that_can_be_read_or_set_is_described():
    """The tables of set and get have each name."""
    sets = {
        "pins",
        "adc",
        "dht",
        "board_c",
        "rssi",
        "wifi",
        "address",
        "ntp",
        "dns",
        "speed",
        "room",
    }
    gets = set(control._GET) - {"file"}
    assert first_cells("The control socket") == sets | gets


def test_every_option_is_described():
    """The table of options has each one that a caller would use."""
    options = set(inspect.signature(Simulator).parameters) - {"count", "on_ready", "clock"}
    introduction = TEXT.split("## The control socket")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", introduction, re.M)) == options


LIGHT = re.split(r"^## ", TEXT.split("## Light boards\n")[1], flags=re.M)[0]


def test_every_example_for_light_boards_is_accepted():
    """Each line of JSON in their section is answered with ok."""
    lines = [line for line in LIGHT.splitlines() if line.startswith('{"')]
    with LightFleet(1, with_control=True) as fleet, Control(fleet._simulator.control) as client:
        for line in lines:
            client.ask(json.loads(line.replace("2e8889840967", fleet[0].id)))
    assert len(lines) == 4


def test_every_option_of_light_boards_is_described():
    """Options, fields of the log, and what can be asked for."""
    options = set(inspect.signature(LightSimulator).parameters) - {"count", "on_ready", "clock"}
    assert first_cells("Light boards") == options
    fields = {field.name for field in dataclasses.fields(LightRequest)} | set(PinChange._fields)
    assert {name for name in fields if f"`{name}`" not in LIGHT} == set()
    assert {name for name in light._GET if f"`{name}`" not in LIGHT} == set()
