"""Random damage to valid requests: an open board does what a mutant still says, a claimed one nothing."""

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest

from espnet.simulator.fleet import Board

from .digest_client import Digest, Person, claim_by_hand
from .firmware_client import ask, levels, raw
from .requesting import form, settled

MUTANTS = 5000  # of open and of claimed boards each

SEEDS = [
    form("/gpio", b'{"pin":[4,5,12],"value":1}', "Host: b", "Content-Type: application/json"),
    form("/gpio", b"pin=4%2C5&value=1\n"),
    form("/gpio", b"pin=4&value=2"),
    form("/gpio", b"pin=21,22&value=1&lease_s=3000&safe=high&by=a+person&fence=7"),
    form("/adc", b"read_pin=36&samples=001"),
    form("/adc", b'{"read_pin": 36, "samples": 1}'),
    form("/dht22", b"read_pin=15"),
    form("/set_host", b"ip=10.0.0.1"),
    form(
        "/claim", b"ha1=" + b"A" * 64
    ),  # right but for upper case: nobody may come to own this board
    b"GET /?a=b HTTP/1.1\r\nHost: board\r\nAccept: */*\r\n\r\n",
    b"GET /?fence=3 HTTP/1.1\r\nHost: board\r\n\r\n",
    b"GET /ui HTTP/1.1\r\nHost: board\r\n\r\n",
    b"GET /details HTTP/1.1\r\nConnection: close\r\n\r\n",
]
SPICE = [b"\0", b"\r\n", b"\n", b"\r", b":", b" ", b",", b'"', b"{", b"[", b"\\u", b"%", b"&", b"=",
         b"-1", b"1e9", b"\xff", b"\xed\xa0\x80", b"Content-Length: 3\r\n", b"0" * 300, b"../",
         b"HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", b"Transfer-Encoding: chunked\r\n"]  # fmt: skip


def mutate(rng: random.Random, seeds: list[bytes]) -> bytes:
    mutant = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(mutant) + 1)
        end = min(len(mutant), at + rng.choice((1, 1, 1, 2, 5, 30)))
        kind = rng.randrange(6)
        if kind == 0:
            del mutant[at:end]
        elif kind == 1:
            mutant[at:at] = rng.choice(SPICE)
        elif kind == 2:
            mutant[at:at] = mutant[at:end]
        elif kind == 3 and at < len(mutant):
            mutant[at] ^= 1 << rng.randrange(8)
        elif kind == 4:
            mutant[at:end] = rng.randbytes(end - at)
        else:
            other = rng.choice(seeds)
            mutant[at:] = other[rng.randrange(len(other)) :]
    return bytes(mutant)


def answers(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(status, body) of each answer in a stream of them; the last body may be cut."""
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        found = re.match(rb"HTTP/1\.1 (\d{3}) (.|\r\n)*?\r\nContent-Length: (\d+)", head)
        if head == b"HTTP/1.1 100 Continue":
            data = rest
            continue
        assert found, data
        length = 0 if found[1] == b"304" else int(found[3])
        yield int(found[1]), rest[:length]
        data = rest[length:]


def changes_told(data: bytes) -> dict[int, int]:
    """The pins that a stream of answers says were set, and their levels."""
    told: dict[int, int] = {}
    for status, body in answers(data):
        assert status != 500, data
        if status == 200 and b'"status": "OK"' in body:
            told |= {int(pin): level for pin, level in json.loads(body).get("gpio", {}).items()}
    return told


def flash(board: Board) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in board.flash.iterdir() if file.is_file()}


def state(board: Board) -> dict[str, Any]:
    """What a board tells about itself, without the figures that time and use move."""
    status = ask(board, "GET", "/").json
    for name in ("uptime_s", "mem_free", "idf_free", "idf_largest"):
        status.pop(name, None)
    status["leases"] = {pin: lease["safe"] for pin, lease in status["leases"].items()}
    pins = ask(board, "GET", "/details").json["pins"]
    return status | {"pins": {pin: (p["mode"], p.get("by")) for pin, p in pins.items()}}


def lease_ends_s(board: Board) -> float:
    """When, in the board's uptime, the first of its leases ends: renewed, it would end later."""
    status = ask(board, "GET", "/").json
    return status["uptime_s"] + min(lease["left_s"] for lease in status["leases"].values())


SEED_NUMBERS = [20260101, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(10))]


@pytest.mark.parametrize("seed", SEED_NUMBERS)
def test_mutants_on_an_open_board(make_board, seed: int) -> None:
    """A mutant moves the pins that its answer tells, and no other: those stand in the mutant, too. None is
    a bug of the firmware, none costs memory, and nobody comes to own the board."""
    board = make_board(compiled=True)
    rng = random.Random(seed)
    for request in SEEDS:
        raw(board, request)
    free = settled(board)
    expected = levels(board)
    refused = 0
    for number in range(MUTANTS):
        mutant = mutate(rng, SEEDS)
        answer = raw(board, mutant)
        told = changes_told(answer)
        refused += not told
        expected |= told
        assert levels(board) == expected, (number, mutant, answer)
        if b"%" not in mutant and b"\\" not in mutant:
            assert all(str(pin).encode() in mutant for pin in told), (number, mutant, answer)
    assert refused > MUTANTS / 2
    assert abs(settled(board) - free) < free * 0.02
    assert ask(board, "GET", "/").json["claimed"] is False
    assert board.boots == 1
    assert "Traceback" not in board.console


@pytest.mark.parametrize("seed", SEED_NUMBERS)
def test_mutants_on_a_claimed_board(make_board, seed: int) -> None:
    """Without the password nothing changes: no pin, no lease, no fence, no file; also when the mutants are
    made of requests that were signed rightly and have been served, which is what a listener has."""
    board = make_board(compiled=True)
    claim_by_hand(board)
    rng = random.Random(seed)
    owner = Person(board)
    owner.ask("POST", "/gpio", {"pin": [13, 14], "value": 1, "lease_s": 80000, "fence": 9})
    wrong = Digest(board.id, owner.digest.nonce, "wrong")
    heard = []
    for request in SEEDS:
        head, _, body = request.partition(b"\r\n\r\n")
        method, target = head.decode().split(" ")[:2]
        for digest in (owner.digest, wrong):
            signed = f"\r\nAuthorization: {digest.header(method, target, body=body)}\r\n\r\n"
            heard.append(head + signed.encode() + body)
            raw(board, heard[-1])
    seeds = [*SEEDS, *heard]
    before, files, shown = state(board), flash(board), levels(board)
    ends_s = lease_ends_s(board)
    free = settled(board)
    for number in range(MUTANTS):
        mutant = mutate(rng, seeds)
        answer = raw(board, mutant)
        assert not changes_told(answer), (number, mutant, answer)
        assert levels(board) == shown, (number, mutant, answer)
    assert state(board) == before
    assert abs(lease_ends_s(board) - ends_s) <= 1  # both figures are rounded
    assert flash(board) == files
    assert abs(settled(board) - free) < free * 0.02
    assert before["leases"] == {"13": "low", "14": "low"}
    assert Person(board).ask("POST", "/gpio", b"pin=4&value=0").status == 200
    assert board.boots == 2  # the claim's reset
    assert "Traceback" not in board.console
