"""Clients that are not ours talk to a claimed board: curl, requests, aiohttp, and browsers' headers."""

import asyncio
import contextlib
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from requests.auth import HTTPDigestAuth

from espnet.simulator import Fleet
from espnet.simulator.fleet import Board

from .digest_client import PASSWORD, Digest, challenge, claim_by_hand, new_nonce
from .firmware_client import ask, connect, raw, receive, statuses


def curl_is_there() -> bool:
    """Whether there is a curl that speaks SHA-256 digests (7.86)."""
    curl = shutil.which("curl")
    if curl is None:
        return False
    text = subprocess.run([curl, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.match(r"curl (\d+)\.(\d+)", text)
    return version is not None and (int(version[1]), int(version[2])) >= (7, 86)


@pytest.fixture
def board(claimed_fleet: Fleet) -> Board:
    claimed_fleet[0].reset()
    return claimed_fleet[0]


@pytest.fixture(params=["open reads", "private"])
def either_board(request: pytest.FixtureRequest, claimed_fleet: Fleet) -> Iterator[Board]:
    """A claimed board whose status is open, then one whose status is private."""
    board = claimed_fleet[0]
    claim_by_hand(board, private=request.param == "private")
    yield board
    claim_by_hand(board)


class Recorder:
    """A wire tap: passes one client's bytes on to the board and keeps what the client said."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.heard: list[bytes] = []

    def __enter__(self) -> "Recorder":
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.server.getsockname()[1]}"
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.server.accept()
                with client, connect(self.board) as board:
                    client.settimeout(5)
                    while data := client.recv(65536):
                        self.heard.append(data)
                        board.sendall(data)
                        client.sendall(board.recv(65536))

    def __exit__(self, *_: object) -> None:
        self.server.shutdown(2)
        self.server.close()
        self.thread.join()


# curl


def curl(board: Board, *arguments: str, password: str | None = PASSWORD) -> list[str]:
    """The statuses of curl's last answers, one for each URL; the password goes through stdin."""
    config = "" if password is None else f'user = "espnet:{password}"\n'
    command = [
        "curl",
        "-sS",
        "-m",
        "20",
        "--digest",
        "-K",
        "-",
        "-w",
        "%{http_code}\n",
        "-o",
        "/dev/null",
    ]
    urls = [
        f"http://{board.address}{a}" if a.startswith("/") and a != "/dev/null" else a
        for a in arguments
    ]
    run = subprocess.run(
        [*command, *urls], input=config, capture_output=True, text=True, check=True
    )
    return run.stdout.split()


needs_curl = pytest.mark.skipif(not curl_is_there(), reason="there is no curl 7.86 or newer")


@needs_curl
def test_curl(either_board: Board) -> None:
    """`curl --digest` gets in with the password, and not without it or with another."""
    board = either_board
    switch = ("/gpio", "-d", "pin=4&value=1")
    assert curl(board, *switch, password=None) == ["401"]
    assert curl(board, *switch, password="wrong") == ["401"]
    assert board.pin(4).level == 0
    assert curl(board, *switch) == ["200"]
    assert board.pin(4).level == 1
    assert curl(board, "/?fence=3") == ["200"]
    assert curl(board, "/") == ["200"]
    assert curl(board, "/ui", password=None) == ["200"]


@needs_curl
def test_curl_many_and_parallel(board: Board) -> None:
    """Fifty calls of one curl over one connection, and twelve curls at once."""
    assert curl(board, "--next", "/?fence=1") == ["200"]
    many: list[str] = []
    for _ in range(50):
        many += ["-o", "/dev/null", "/?fence=1"]
    assert curl(board, *many[2:]) == ["200"] * 50
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: curl(board, "/gpio", "-d", "pin=4&value=1"), range(12)))
    assert found == [["200"]] * 12


@needs_curl
def test_a_captured_request_of_curl(board: Board) -> None:
    """What curl sent with success is refused when somebody sends it again, byte for byte."""
    with Recorder(board) as tap:
        command = ["curl", "-sS", "--digest", "-u", f"espnet:{PASSWORD}", "-d", "pin=4&value=2"]
        done = subprocess.run(
            [*command, f"http://{tap.address}/gpio"], capture_output=True, check=True
        )
        assert b'"OK"' in done.stdout
    assert board.pin(4).level == 1
    request = next(data for data in tap.heard if b"response=" in data)
    for _ in range(3):
        answer = raw(board, request)
        assert answer[9:12] == b"401"
        assert b"stale=true" in answer
    assert board.pin(4).level == 1


# requests


def test_requests(either_board: Board) -> None:
    """`requests` with HTTPDigestAuth: refused without the password, then 100 calls in a session."""
    board = either_board
    base = f"http://{board.address}"
    body = {"pin": 4, "value": 1}
    assert requests.post(f"{base}/gpio", json=body, timeout=20).status_code == 401
    wrong = HTTPDigestAuth("espnet", "wrong")
    assert requests.post(f"{base}/gpio", json=body, auth=wrong, timeout=20).status_code == 401
    assert board.pin(4).level == 0
    with requests.Session() as session:
        session.auth = HTTPDigestAuth("espnet", PASSWORD)
        assert session.post(f"{base}/gpio", json=body, timeout=20).status_code == 200
        assert board.pin(4).level == 1
        board.forget_requests()
        for number in range(100):
            path = ("/", "/?fence=2", "/?a=1,2&fence=2")[number % 3]
            assert session.get(base + path, timeout=20).status_code == 200
        # One challenge at most: the nonce goes on, its count grows.
        assert len(board.requests) <= 101


def test_requests_in_parallel(board: Board) -> None:
    """Four people at once, thirty calls each; each has a session of their own."""

    def work(_: int) -> set[int]:
        with requests.Session() as session:
            session.auth = HTTPDigestAuth("espnet", PASSWORD)
            url = f"http://{board.address}/gpio"
            body = {"pin": 4, "value": 1}
            return {session.post(url, json=body, timeout=20).status_code for _ in range(30)}

    with ThreadPoolExecutor(4) as pool:
        assert set().union(*pool.map(work, range(4))) == {200}


# aiohttp


def test_aiohttp(either_board: Board) -> None:
    """aiohttp's digest middleware: refused without, served with; many calls, and several at once."""
    aiohttp = pytest.importorskip("aiohttp")
    board = either_board
    url = f"http://{board.address}"

    async def switch(session: Any) -> int:
        async with session.post(f"{url}/gpio", data={"pin": "4", "value": "1"}) as answer:
            return int(answer.status)

    def session(password: str) -> Any:
        middleware = aiohttp.DigestAuthMiddleware("espnet", password)
        return aiohttp.ClientSession(middlewares=(middleware,))

    async def main() -> None:
        async with aiohttp.ClientSession() as nobody:
            assert await switch(nobody) == 401
        async with session("wrong") as stranger:
            assert await switch(stranger) == 401
        assert board.pin(4).level == 0
        async with session(PASSWORD) as owner:
            for _ in range(100):
                assert await switch(owner) == 200
            async with owner.get(f"{url}/?fence=2") as answer:
                assert answer.status == 200
        assert board.pin(4).level == 1

        async def one() -> set[int]:
            async with session(PASSWORD) as owner:
                return {await switch(owner) for _ in range(20)}

        assert set().union(*await asyncio.gather(*[one() for _ in range(4)])) == {200}

    asyncio.run(main())


def test_aiohttp_covers_the_body(board: Board) -> None:
    """Where auth-int is offered aiohttp takes it, and is served whatever its body is."""
    aiohttp = pytest.importorskip("aiohttp")

    async def main(url: str) -> None:
        middleware = aiohttp.DigestAuthMiddleware("espnet", PASSWORD)
        async with aiohttp.ClientSession(middlewares=(middleware,)) as owner:
            for more in ({"json": {"pin": 4, "value": 1}}, {"data": {"pin": "4", "value": "1"}}):
                async with owner.post(f"{url}/gpio", **more) as answer:
                    assert answer.status == 200
            async with owner.post(f"{url}/gpio") as answer:
                assert answer.status == 400
            async with owner.get(f"{url}/?fence=2") as answer:
                assert answer.status == 200

    with Recorder(board) as tap:
        asyncio.run(main(f"http://{tap.address}"))
    said = b"".join(tap.heard)
    assert said.count(b"qop=auth-int") == said.count(b"response=") == 4


# Headers as others write them. Made from their sources: order, quotes and spaces are theirs.

SHAPES = {
    "Chromium": 'Digest username="{username}", realm="{realm}", nonce="{nonce}", uri="{uri}", '
    'algorithm=SHA-256, response="{response}", qop=auth, nc={nc}, cnonce="{cnonce}"',
    "Firefox": 'Digest username="{username}", realm="{realm}", nonce="{nonce}", uri="{uri}", '
    'algorithm=SHA-256, response="{response}", qop=auth, nc={nc}, cnonce="{cnonce}"',
    "curl": 'Digest username="{username}",realm="{realm}",nonce="{nonce}",uri="{uri}",'
    'cnonce="{cnonce}",nc={nc},algorithm=SHA-256,response="{response}",qop=auth',
    "requests": 'Digest username="{username}", realm="{realm}", nonce="{nonce}", uri="{uri}", '
    'response="{response}", algorithm="SHA-256", qop="auth", nc={nc}, cnonce="{cnonce}"',
    "all in quotes": 'Digest nc="{nc}", qop="auth", algorithm="SHA-256", cnonce="{cnonce}", '
    'uri="{uri}", realm="{realm}", response="{response}", nonce="{nonce}", username="{username}"',
    "loose": 'DIGEST  Username = "{username}" ,\tREALM="{realm}",nonce= "{nonce}", uri="{uri}" , '
    'algorithm = SHA-256, response="{response}", qop=auth, nc={nc}, cnonce="{cnonce}", opaque="x"',
}


@pytest.mark.parametrize("shape", SHAPES)
def test_how_others_write_it(board: Board, shape: str) -> None:
    """Order, quotes, spaces and unknown parameters make no difference to a right digest."""
    digest = Digest(board.id, new_nonce(board))
    for nc in (1, 2):
        header = SHAPES[shape].format(**digest.fields("POST", "/gpio", nc))
        answer = ask(board, "POST", "/gpio", b"pin=4&value=1", Authorization=header)
        assert answer.status == 200


def test_what_a_browser_sends_fits(board: Board) -> None:
    """A browser's whole head, with a digest in it, is shorter than the board's limit."""
    digest = Digest(board.id, new_nonce(board))
    origin = f"http://{board.address}"
    agent = (
        "Mozilla/5.0 (Linux; Android 15; Pixel 9 Pro XL Build/AP4A.250205.002) AppleWebKit/537.36 "
    )
    headers = {
        "Host": board.address,
        "Connection": "keep-alive",
        "Content-Length": "13",
        "Cache-Control": "no-cache",
        "Pragma": "no-cache",
        "Authorization": digest.header("POST", "/gpio"),
        "User-Agent": agent + "(KHTML, like Gecko) Chrome/130.0.6723.107 Mobile Safari/537.36",
        "Content-Type": "application/x-www-form-urlencoded",
        "Accept": "*/*",
        "Origin": origin,
        "Sec-Fetch-Site": "same-origin",
        "Sec-Fetch-Mode": "cors",
        "Sec-Fetch-Dest": "empty",
        "Referer": f"{origin}/ui",
        "Accept-Encoding": "gzip, deflate, br, zstd",
        "Accept-Language": "en-GB,en;q=0.9,de-DE;q=0.8,de;q=0.7,en-US;q=0.6",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"POST /gpio HTTP/1.1\r\n{head}\r\npin=4&value=1".encode()
    with connect(board) as client:
        client.sendall(request)
        client.shutdown(1)
        answer = receive(client)
    assert statuses(answer) == [200]


def test_the_challenge(board: Board) -> None:
    """A challenge is what the contract says, comes with every 401, and never twice the same."""
    answers = [
        ask(board, "POST", "/gpio", Authorization=h)
        for h in ("", "Basic eDp5", "Digest", "Digest x=y")
    ]
    nonces = set()
    for answer in answers:
        header = answer.headers["www-authenticate"]
        realm = re.escape(f"EspNet {board.id}")
        pattern = rf'Digest realm="{realm}", nonce="([0-9a-f]{{44}})", algorithm=SHA-256, qop="auth,auth-int"'
        assert re.fullmatch(pattern, header)
        nonces.add(challenge(answer)["nonce"])
        assert answer.headers["content-type"] == "application/json"
    assert len(nonces) == len(answers)
