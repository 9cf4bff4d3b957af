"""What the machine lets boards have: too little is one sentence, before anything is started."""

import resource
import subprocess
import sys

import pytest

from espnet.simulator import SimulatorError
from espnet.simulator.limits import most_files, need_files, need_memory, need_processes


def test_what_is_there_is_enough() -> None:
    """A few boards fit everywhere."""
    need_files(10, "three boards")
    need_processes(3)
    need_memory(3)
    assert most_files() >= 10


def test_memory_that_is_not_there_is_told() -> None:
    """How much it would take, how much there is, and what takes less."""
    with pytest.raises(SimulatorError, match="--static"):
        need_memory(10_000_000)


def test_processes_that_no_machine_has_are_told() -> None:
    """More than the largest number of a process."""
    with pytest.raises(SimulatorError, match=r"pid_max|TasksMax|ulimit -Hu"):
        need_processes(10_000_000)


def test_a_soft_limit_is_raised_and_a_hard_one_is_told() -> None:
    """Within the hard limit nobody is bothered."""
    program = (
        "import resource\n"
        "from espnet.simulator import SimulatorError\n"
        "from espnet.simulator.limits import need_files\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))\n"
        "need_files(100, 'boards')\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        "try:\n"
        "    need_files(200, 'Many boards')\n"
        "except SimulatorError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    raised, told = done.stdout.splitlines()
    assert raised == "(100, 128)"
    assert told.startswith("Many boards need 200 open files, and this process may have 128")
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] != 100
