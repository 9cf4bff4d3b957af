"""From an empty board to one that is polled, with nothing but what docs/board.md tells a newcomer to type."""

import json
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from air import LOOPBACK

from espnet.simulator import Control

from .terminal import Seen, at_terminal
from .world import ESPCLI, ROOT, Run, World, wait_for

PORT, IMAGE = "/dev/pts/4", "/dev/shm/espnet-sim-x1y2/micropython.bin"
PASSWORD, OWN_PASSWORD = "correct horse", "a net of its own"
ANSWERS = {
    "Name of the Wi-Fi": "greenhouse",
    "Password of greenhouse": PASSWORD,
    "Password of the Wi-Fi that the board opens": OWN_PASSWORD,
}


def commands(page: Path, heading: str) -> list[str]:
    """The lines of the first shell block below a heading, without their comments."""
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"^## {heading}\n.*?```sh\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    assert found, f"{page} has no commands below {heading}"
    return [line.partition("#")[0].strip() for line in found[1].splitlines()]


STEPS = commands(ROOT / "docs" / "board.md", "From the box to the network")


class Newcomer:
    """Types the page's commands, in their order, at a terminal in the repository's folder."""

    def __init__(self, world: World, told: dict[str, Any]) -> None:
        self._world, self._told = world, told
        self._rest = STEPS[1:]

    def next(self, begin: str) -> list[str]:
        """The words of the next command, which must be this one, with the port and image of this board."""
        line = self._rest.pop(0)
        assert line.startswith(begin), line
        for printed, real in ((PORT, self._told["port"]), (IMAGE, self._told["image"])):
            line = line.replace(printed, real)
        words = shlex.split(line)
        if words[0] == "make":
            # The venv is the one that this test runs in; its lock file may be newer all the same.
            words[1:1] = ["-o", ".venv/.synced"]
        return words

    def types(self, begin: str, answers: dict[str, str] | None = None) -> Seen:
        seen = at_terminal(self.next(begin), self._world.environ, ROOT, answers)
        assert seen.code == 0, seen.text
        return seen

    @property
    def is_done(self) -> bool:
        return not self._rest


@pytest.fixture
def simulated(world: World) -> Iterator[dict[str, Any]]:
    """What `espcli simulate 1 --serial` says; its beacons go where this world listens, and nowhere else."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    world.environ["ESPNET_BEACONS"] = f"{LOOPBACK}:{port}"
    words = [*shlex.split(STEPS[0]), "--beacons", str(port), "--json"]
    with subprocess.Popen(
        words, cwd=ROOT, env=world.environ, stdout=subprocess.PIPE, text=True
    ) as simulator:
        try:
            assert simulator.stdout is not None
            yield json.loads(simulator.stdout.readline())
            simulator.send_signal(signal.SIGINT)
            assert simulator.wait(timeout=30) == 0
        finally:
            if simulator.poll() is None:
                simulator.kill()


def test_from_the_box_to_a_board_that_is_polled(world: World, simulated: dict[str, Any]) -> None:
    """flash, put, provision, boot, discover, register, poll: each command succeeds as it is printed, the
    first ones say what comes next, and no password is shown; the board is online under its name."""
    newcomer = Newcomer(world, simulated)
    with Control(simulated["control"]) as board:

        def is_phase(phase: str) -> bool:
            return bool(board.get("board")["phase"] == phase)

        assert is_phase("blank")
        shown = newcomer.types("make flash")
        assert "espcli board put" in shown.text
        wait_for("MicroPython boots", lambda: is_phase("halted"))
        shown = newcomer.types("make put")
        assert "espcli board provision" in shown.text
        wait_for("the firmware boots", lambda: is_phase("ready"))
        shown = newcomer.types("make provision", ANSWERS)
        assert "espcli discover --register" in shown.text
        assert "joining greenhouse" in shown.text
        assert PASSWORD not in shown.text
        assert OWN_PASSWORD not in shown.text
        shown = newcomer.types("./espcli discover --register")
        assert "porch" in shown.text
        assert "1 board registered now: `espcli run`" in shown.text
        _, *words = newcomer.next("./espcli run")
        as_json = {"ESPNET_LOG_FORMAT": "json"}
        run = Run([str(ESPCLI), *words], world.environ | as_json, world.folder / "run.log")
        world.runs.append(run)
        run.wait_for_event("collector.started")

        def polls() -> int:
            asked = board.get("requests")
            return sum(each["method"] == "GET" and each["status"] == 200 for each in asked)

        before = polls()
        wait_for("it is polled", lambda: polls() > before + 3)
        shown = newcomer.types("./espcli devices")
        assert re.search(r"porch\b.*\bonline\b", shown.text)
        shown = newcomer.types("./espcli device porch")
        assert simulated["id"] in shown.text
        assert newcomer.is_done
        about = world.device("porch")
        assert (about["id"], about["address"]) == (simulated["id"], simulated["address"])
        assert run.stop() == 0


def test_the_readme_says_the_same_of_a_real_board() -> None:
    """It fetches the image first, and names neither port nor image: there is one board, and one image."""
    real = commands(ROOT / "README.md", "One minute with a real board")
    here = [re.sub(r" (PORT|FIRMWARE)=\S+", "", step) for step in STEPS[1:]]
    assert real == ["make firmware", *here]


def test_make_shows_what_can_be_done_with_a_board(world: World) -> None:
    """`make` alone lists every target that the page names, with a word on each."""
    done = subprocess.run(
        ["make"], cwd=ROOT, env=world.environ, capture_output=True, text=True, check=True
    )
    listed = dict(re.findall(r"^  make (\S+) +(\S.*)$", done.stdout, re.MULTILINE))
    page = (ROOT / "docs" / "board.md").read_text(encoding="utf-8")
    named = set(re.findall(r"make ([a-z-]+)", page)) | {"firmware", "ls", "logs", "repl", "reset"}
    assert named | {"put-app", "put-boot"} <= listed.keys()
