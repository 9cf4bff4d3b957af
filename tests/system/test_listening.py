"""What EspNet opens to the network: nothing beyond this machine, unless somebody says so."""

import os
import socket
import struct
import subprocess
from pathlib import Path

from .world import ESPCLI, World, marked_processes, wait_for

#: The state of a listening socket in /proc/net/tcp.
LISTENING = "0A"
#: The flag of one in /proc/net/unix.
ACCEPTS = 0x10000
#: Where broadcasts go that do not leave this machine.
EVERYBODY_HERE = "127.255.255.255"


def belonging(world: World) -> list[int]:
    """The living processes of a world: those that it started, and the servers that these started."""
    return [int(told.partition(":")[0]) for told in marked_processes(world.mark, world.folder)]


def sockets(pid: int) -> set[str]:
    """The inodes of a process' sockets."""
    found = set()
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(entry)
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        pass  # it, or that file, is closed
    return found


def listening() -> dict[str, str]:
    """The address of every socket of this machine that takes what comes, by its inode."""
    found = {}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, remote, state, *rest = line.split()
            is_connected = int(remote.partition(":")[0], 16) != 0
            if state == LISTENING if table.startswith("tcp") else not is_connected:
                words = bytes.fromhex(local.partition(":")[0])
                family = socket.AF_INET if len(words) == 4 else socket.AF_INET6
                numbers = struct.unpack(f"={len(words) // 4}I", words)
                packed = struct.pack(f">{len(numbers)}I", *numbers)
                found[rest[5]] = socket.inet_ntop(family, packed)
    return found


def opened(world: World) -> dict[int, list[str]]:
    """Where the processes of a world listen."""
    every = listening()
    return {pid: [every[one] for one in sockets(pid) if one in every] for pid in belonging(world)}


def test_nothing_listens_beyond_this_machine(embedded_world: World) -> None:
    """The collector with its page for Prometheus, its own Redis, simulated boards, the demo with all that it
    starts: loopback or Unix sockets, and those for their user alone. The one thing that listens to everybody,
    where nobody says otherwise, is the collector's ear for beacons; here it hears this machine only."""
    world = embedded_world
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((EVERYBODY_HERE, 0))
        world.environ["ESPNET_BEACONS"] = f"{EVERYBODY_HERE}:{taken.getsockname()[1]}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    world.start("10", "--prometheus", str(port))
    told = subprocess.PIPE
    others = [
        subprocess.Popen([ESPCLI, *words], env=world.environ, stdout=told, stderr=told)
        for words in (["simulate", "2"], ["demo"])
    ]
    try:
        simulated = others[0].stdout
        assert simulated is not None
        assert simulated.readline()
        assert simulated.readline()
        # The page, the ear for beacons, two boards, and the demo's three boards and its intake.
        wait_for("they listen", lambda: sum(map(len, opened(world).values())) >= 1 + 1 + 2 + 3 + 1)
        wait_for("the demo's collector", lambda: demo_collects(world), 30)
        found = opened(world)
        servers = [told for told in marked_processes(world.mark, world.folder) if "valkey" in told]
        assert len(servers) == 2
        assert {int(told.partition(":")[0]) for told in servers} <= found.keys()
        addresses = [address for listens in found.values() for address in listens]
        assert len(addresses) >= 8
        assert set(addresses) == {"127.0.0.1", EVERYBODY_HERE}
        # The demo's collector has none: it knows its boards.
        assert addresses.count(EVERYBODY_HERE) == 1
        require_own_sockets(world)
    finally:
        for other in others:
            other.terminate()
        for other in others:
            other.communicate(timeout=30)


def demo_collects(world: World) -> bool:
    """Whether a second collector runs: the demo's."""
    return sum("espnet.cli run" in told for told in marked_processes(world.mark, world.folder)) >= 2


def require_own_sockets(world: World) -> None:
    """Every Unix socket that takes what comes is reached by its user alone: by its mode, or its folder's."""
    own = {one for pid in belonging(world) for one in sockets(pid)}
    paths = set()
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        _, _, _, flags, _, _, inode, *path = line.split(maxsplit=7)
        if inode in own and int(flags, 16) & ACCEPTS:
            paths.add(Path(*path))
    assert (
        len(paths) >= 2 + 2 + 3
    )  # two Redis, two boards and the demo's three: their control sockets
    for path in paths:
        assert path.is_absolute()  # an abstract name would be anybody's
        reached = [one.stat().st_mode & 0o077 for one in (path, *path.parents)]
        assert 0 in reached, (path, [oct(mode) for mode in reached])
