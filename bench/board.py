"""`python -m bench.board`: how many `GET /` a second a board's server answers, beside other servers.

All run on MicroPython's unix port over the simulator's stand-ins, compiled, with the same heap, and
answer the status of a board; rounds are interleaved, medians count.

    espnet     the firmware of esp32/
    streams    a plain server on `asyncio.start_server`, as boards of 2021 had: it reads line by line, answers
               HTTP/1.0 in several writes and closes; written here, from what is known of the wire
    microdot   the web framework of that name, as a measure

The last two answer the fields of 2021 only, which is less work than the firmware's answer.
"""

import contextlib
import importlib.util
import shutil
import socket
import statistics
import tempfile
import time
from pathlib import Path

from espnet.firmware import find
from espnet.simulator import Fleet
from espnet.simulator.fleet import Board

ROUNDS, SECONDS, HEAP = 5, 1.0, "188K"
REQUEST = b"GET / HTTP/1.1\r\nHost: board\r\nAccept: */*\r\nUser-Agent: bench\r\n\r\n"

STATUS = """
import binascii
import json

import esp32
import machine
from machine import Pin

READABLE = [n for n in range(40) if not 6 <= n <= 11 and n not in (20, 24, 28, 29, 30, 31)]
PINS = [(str(n), Pin(n)) for n in READABLE]


def status():
    return {
        "id": binascii.hexlify(machine.unique_id()).decode(),
        "f": esp32.raw_temperature(),
        "gpio": {name: pin.value() for name, pin in PINS},
        "espnet_host": "",
    }
"""

#: What `app.py` is instead of the firmware's.
SERVERS = {
    "streams": STATUS
    + """
import asyncio


async def serve(reader, writer):
    words = (await reader.readline()).decode().split()
    headers = {}
    while True:
        line = (await reader.readline()).decode().strip()
        if not line:
            break
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if words and words[1] == "/":
        writer.write(b"HTTP/1.0 200 OK\\r\\n")
        writer.write(b"Content-Type: application/json\\r\\n\\r\\n")
        await writer.drain()
        writer.write(json.dumps(status()).encode())
    else:
        writer.write(b"HTTP/1.0 404 Not Found\\r\\n\\r\\n")
    await writer.drain()
    writer.close()
    await writer.wait_closed()


def main(choice):
    asyncio.create_task(asyncio.start_server(serve, "0.0.0.0", 80))
    asyncio.get_event_loop().run_forever()
""",
    "microdot": STATUS
    + """
from microdot import Microdot

app = Microdot()


@app.get("/")
async def index(request):
    return status()


def main(choice):
    app.run(host="0.0.0.0", port=80)
""",
}


def firmware(name: str, folder: Path) -> Path:
    """A folder with the firmware, or with another server in its place."""
    shutil.copytree(find(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    if name != "espnet":
        (folder / "app.py").write_text(SERVERS[name])
    if name == "microdot":
        spec = importlib.util.find_spec("microdot")
        assert spec is not None
        assert spec.origin is not None
        shutil.copy(Path(spec.origin).with_name("microdot.py"), folder)
    return folder


def answers(client: socket.socket) -> bool:
    """Ask on an open connection; whether the answer leaves it open."""
    client.sendall(REQUEST)
    data = client.recv(65536)
    while b"\r\n\r\n" not in data or not data.endswith(b"}"):
        piece = client.recv(65536)
        if not piece:
            raise ConnectionError("the answer is not whole")
        data += piece
    return b" 200 " in data[:16]


def per_second(board: Board, keep_alive: bool) -> float:
    """Requests a second of one client, on one connection or a new one each."""
    count, ends = 0, time.perf_counter() + SECONDS
    started = time.perf_counter()
    address = ("127.0.0.1", board.port)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(socket.create_connection(address, 5)) if keep_alive else None
        while time.perf_counter() < ends:
            if client is not None:
                assert answers(client)
            else:
                with socket.create_connection(address, 5) as one:
                    assert answers(one)
            count += 1
    return count / (time.perf_counter() - started)


def main() -> None:
    names = ["espnet", "streams", *(["microdot"] if importlib.util.find_spec("microdot") else [])]
    kinds = [(name, False) for name in names] + [("espnet", True)]
    found: dict[tuple[str, bool], list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        boards = {}
        for name in names:
            fleet = Fleet(1, firmware=firmware(name, Path(folder, name)), compiled=True, heap=HEAP)
            boards[name] = stack.enter_context(fleet)[0]
        for _ in range(ROUNDS):
            for name, keep_alive in kinds:
                found[name, keep_alive].append(per_second(boards[name], keep_alive))
    ours = statistics.median(found["espnet", False])
    for (name, keep_alive), rates in found.items():
        rate = statistics.median(rates)
        how = "one connection" if keep_alive else "new connections"
        print(f"{name:10} {how:16} {rate:>7,.0f} requests/s {rate / ours:>6.2f}")
    if "microdot" not in names:
        print("microdot is not installed, so it is not measured.")
    print(f"Medians of {ROUNDS} rounds of {SECONDS:g} s, one client; heap {HEAP}.")


if __name__ == "__main__":
    main()
