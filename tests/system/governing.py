"""How the end-to-end tests give boards jobs, and see what becomes of their pins.

Windows are in UTC, which has no days of 23 hours.
"""

import json
import time
from typing import Any

from firmware import firmware_client
from firmware.digest_client import Person

from espnet.simulator import Board
from espnet.simulator.state import Request

from .world import World, polls, wait_for

INTERVAL_S, TIMEOUT_S = 0.3, 0.4
#: The shortest lease.
LEASE_S = 15
#: What a busy machine may add to anything, in seconds.
SLACK_S = 1.5
PIN, DHT = 2, 4
ALWAYS = ("00:00", "24")
UTC = ("--zone", "UTC")
AIR = "porch.dht22.air.temp"


def air(board: Board, celsius: float | None) -> None:
    """Plugs a sensor in that shows so much, or none."""
    board.set(dht={DHT: None if celsius is None else (celsius, 40)})


def set_up(world: World, board: Board, name: str, celsius: float) -> None:
    """Registers a board with a sensor."""
    air(board, celsius)
    world.espcli("register", board.address, name)
    world.espcli("device", name, "add_dht22", "air", str(DHT))


def add_timer(world: World, name: str, job: str, pin: int, *options: str) -> None:
    """A job that wants the pin on at any time."""
    world.espcli("device", name, "add_timer_job", job, str(pin), *ALWAYS, *UTC, *options)


def add_heat(
    world: World, name: str, source: str, *options: str, job: str = "heater", pin: int = PIN
) -> None:
    """A job that holds 20 by that input."""
    words = ("add_threshold_job", job, str(pin), *ALWAYS, "0", source, "20", *UTC, *options)
    world.espcli("device", name, *words)


def wait_level(board: Board, level: int, pin: int = PIN, within_s: float = 10.0) -> None:
    """Returns as soon as the pin is so."""
    wait_for(
        f"pin {pin} at {level}", lambda: board.pin(pin).level == level, within_s, every_s=0.005
    )


def wait_polls(board: Board, count: int = 1) -> None:
    """Returns after so many more polls were answered."""
    since_s = time.monotonic()
    # The last one may be under way still, the ones before it are over.
    wait_for("polls", lambda: len(polls(board, since_s)) > count)


def writes_of(board: Board, since_s: float = 0.0) -> list[Request]:
    """The writes of pins that a board has received since a monotonic time; a challenge is not yet one."""
    asked = ("POST", "/gpio")
    return [
        r
        for r in board.requests
        if (r.method, r.path) == asked and r.at_s >= since_s and r.status != 401
    ]


def ask(board: Board, **form: int) -> dict[str, Any]:
    """What the board says to a person: to `GET /`, or to a write of a pin, signed where it is claimed."""
    claim = board.flash / "claim.json"
    if form and claim.exists():
        person = Person(board, ha1=json.loads(claim.read_text())["ha1"])
        answer = person.ask("POST", "/gpio", form)
    else:
        answer = firmware_client.ask(board, *(("POST", "/gpio", form) if form else ("GET", "/")))
    assert answer.status == 200, answer
    told: dict[str, Any] = answer.json
    return told


def why(world: World, name: str, pin: int = PIN) -> dict[str, Any]:
    """What `espcli why` says of a pin."""
    told: dict[str, Any] = world.json("why", name, str(pin))
    return told


def job_rows(world: World, name: str) -> dict[str, dict[str, Any]]:
    """What `espcli device NAME jobs` says, by job."""
    return {row["job"]: row for row in world.json("device", name, "jobs")}
