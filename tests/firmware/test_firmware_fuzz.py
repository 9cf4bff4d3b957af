"""Random damage to valid requests: whatever is not a valid request changes nothing."""

import random

import pytest

from .firmware_client import Board, ask, levels, raw

MUTANTS = 1500

SEEDS = [
    b"POST /gpio HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nContent-Length: 26\r\n"
    b'\r\n{"pin":[4,5,12],"value":1}',
    b"POST /gpio HTTP/1.1\r\nContent-Length: 18\r\n\r\npin=4%2C5&value=1\n",
    b"POST /gpio HTTP/1.1\r\nContent-Length: 13\r\n\r\npin=4&value=2",
    b"POST /adc HTTP/1.1\r\nContent-Length: 35\r\n\r\nread_pin=36&power_pin=13&samples=001",
    b"POST /dht22 HTTP/1.1\r\nContent-Length: 11\r\n\r\nread_pin=15",
    b"POST /set_host HTTP/1.1\r\nContent-Length: 11\r\n\r\nip=10.0.0.1",
    b"GET /?a=b HTTP/1.1\r\nHost: board\r\nAccept: */*\r\n\r\n",
    b"GET /ui HTTP/1.1\r\nHost: board\r\n\r\n",
]
SPICE = [b"\0", b"\r\n", b"\n", b"\r", b":", b" ", b",", b'"', b"{", b"[", b"\\u", b"%", b"&", b"=",
         b"-1", b"1e9", b"\xff", b"\xed\xa0\x80", b"Content-Length: 3\r\n", b"0" * 300, b"../"]  # fmt: skip


def mutate(rng: random.Random, data: bytes) -> bytes:
    mutant = bytearray(data)
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
            other = rng.choice(SEEDS)
            mutant[at:] = other[rng.randrange(len(other)) :]
    return bytes(mutant)


@pytest.mark.parametrize(
    "seed", [20260101, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(10))]
)
def test_mutants_of_valid_requests(board: Board, seed: int) -> None:
    """A mutant that gets no 200 has moved no pin; after all of them the board is well."""
    rng = random.Random(seed)
    before = levels(board)
    refused = 0
    for number in range(MUTANTS):
        mutant = mutate(rng, rng.choice(SEEDS))
        answer = raw(board, mutant)
        after = levels(board)
        assert b"HTTP/1.1 500" not in answer, (number, mutant, answer)
        if b"HTTP/1.1 200" in answer:
            before = after  # it was valid, or held a valid one
        else:
            refused += 1
            assert after == before, (number, mutant, answer)
    assert refused > MUTANTS / 2
    assert ask(board, "GET", "/").json["id"] == board.id
    assert board.boots == 1
    assert "Traceback" not in board.console
