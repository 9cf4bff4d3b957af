"""How the page comes to a browser: compressed, once, and with what it may do."""

import base64
import gzip
import hashlib
import os
import re
import zlib

import pytest

from espnet import firmware
from espnet.simulator.fleet import Board

from .firmware_client import FIRMWARE, ask, connect, raw, statuses

PAGE = (FIRMWARE / "ui.html").read_bytes()


def policy(board: Board) -> dict[str, list[str]]:
    """{directive: sources} of the page's Content-Security-Policy."""
    text = ask(board, "GET", "/ui").headers["content-security-policy"]
    return {words[0]: words[1:] for words in (part.split() for part in text.split(";"))}


def test_the_page_comes_compressed(board: Board) -> None:
    """GET /ui is gzip of exactly the firmware's page, and as it lies on flash."""
    answer = ask(board, "GET", "/ui")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["cache-control"] == "no-cache"
    assert gzip.decompress(answer.body) == PAGE
    assert answer.body == (board.flash / "a/ui.html.gz").read_bytes()
    assert not (board.flash / "a/ui.html").exists()
    assert len(answer.body) < len(PAGE) * 0.45


def test_the_page_may_do_nothing_else(board: Board) -> None:
    """Only the page's own scripts and styles run, they talk to the board only, and nobody frames it."""
    headers = ask(board, "GET", "/ui").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    found = policy(board)
    assert found["default-src"] == ["'none'"]
    assert found["connect-src"] == ["'self'"]
    for name in ("frame-ancestors", "base-uri", "form-action"):
        assert found[name] == ["'none'"], name
    for tag in ("script", "style"):
        texts = re.findall(f"<{tag}>(.*?)</{tag}>".encode(), PAGE, re.DOTALL)
        assert len(texts) == PAGE.count(b"<" + tag.encode()) > 0, (
            f"a <{tag}> that the policy forbids"
        )
        sums = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in texts]
        assert found[tag + "-src"] == [f"'sha256-{text}'" for text in sums]
    assert not re.search(rb"<[^>]*\s(style|on\w+)=", PAGE), "an attribute that the policy forbids"


def test_a_browser_asks_for_the_page_once(board: Board) -> None:
    """Who has this page already gets 304 and no byte of it; who has another one gets it all."""
    first = ask(board, "GET", "/ui")
    tag = first.headers["etag"]
    again = ask(board, "GET", "/ui", If_None_Match=tag)
    assert (again.status, again.body) == (304, b"")
    assert again.headers["etag"] == tag
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
    for other in ('"0123456789abcdef"', tag[:-2] + '"', tag.strip('"'), "gzip", "*", ""):
        assert ask(board, "GET", "/ui", If_None_Match=other).status == 200, other
    request = f"GET /ui HTTP/1.1\r\nIf-None-Match: {tag}\r\n\r\n".encode()
    answers = raw(board, request * 2 + b"GET /gpio HTTP/1.1\r\nConnection: close\r\n\r\n")
    heads = [int(head) for head in re.findall(rb"HTTP/1.1 (\d+) ", answers)]
    assert heads == [304, 304, 405]
    assert len(answers) < 2500
    with connect(board) as client:
        client.sendall(b"GET /ui HTTP/1.1\r\nConnection: close\r\n\r\n")
        data = b""
        while piece := client.recv(65536):
            data += piece
    assert statuses(data) == [200]


def test_a_page_put_by_hand(make_board) -> None:
    """Where only ui.html lies, it is served as it is; the compressed one wins, and none is a 500."""
    board = make_board()
    packed = board.flash / "a/ui.html.gz"
    (board.flash / "a/ui.html").write_bytes(b"<p>by hand</p>")
    assert ask(board, "GET", "/ui").headers["content-encoding"] == "gzip"
    packed.unlink()
    answer = ask(board, "GET", "/ui")
    assert (answer.status, answer.body) == (200, b"<p>by hand</p>")
    assert not {"content-encoding", "etag"} & set(answer.headers)
    assert ask(board, "GET", "/ui", If_None_Match='"x"').status == 200
    (board.flash / "a/ui.html").unlink()
    assert ask(board, "GET", "/ui").status == 500
    assert ask(board, "GET", "/").status == 200


@pytest.mark.parametrize("page", [PAGE, b"", b"<p>", os.urandom(70_000)], ids=len)
def test_compressing_is_exact(page: bytes) -> None:
    """Any page comes out as it went in, the same each time; the head is valid gzip, without a time."""
    packed = firmware.compress(page)
    assert packed == firmware.compress(page)
    assert gzip.decompress(packed) == page
    assert zlib.decompress(packed, wbits=31) == page
    assert packed[3:8] == b"\x10\0\0\0\0"
    comment = packed[10 : packed.index(b"\0", 10)]
    assert len(comment) < 512 - 10  # the board looks for its end in the first piece
    assert comment.endswith(b"\r\n")
    assert firmware.compress(page + b" ")[:200] != packed[:200]
