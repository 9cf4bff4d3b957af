"""Web pages: the board's own may call it, all others may not, whether it is claimed or open."""

import json

import pytest

from espnet.simulator.fleet import Board

from .firmware_client import ask, raw

BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0"


def post(board: Board, *headers: str, target: str = "/gpio") -> int:
    body = "pin=4&value=1"
    head = [
        f"POST {target} HTTP/1.1",
        *headers,
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    return int(raw(board, ("\r\n".join([*head, "", ""]) + body).encode())[9:12])


OWN = [
    ("192.168.1.20", "http://192.168.1.20"),
    ("192.168.1.20:80", "http://192.168.1.20"),
    ("192.168.1.20", "http://192.168.1.20:80"),
    ("127.0.0.1:4080", "http://127.0.0.1:4080"),
    ("[fe80::1]:80", "http://[fe80::1]"),
    ("[::1]:4080", "http://[::1]:4080"),
    ("porch", "http://porch"),
    ("porch.local", "http://porch.local"),
    ("Porch.Local", "http://porch.local"),
    ("porch.lan:8080", "http://porch.lan:8080"),
    ("localhost:4080", "http://localhost:4080"),
    ("porch.lan", "https://porch.lan"),
]


@pytest.mark.parametrize(("host", "origin"), OWN)
def test_its_own_page(board: Board, host: str, origin: str) -> None:
    """A page that came from the board itself may switch."""
    agent = f"User-Agent: {BROWSER}"
    assert (
        post(board, f"Host: {host}", f"Origin: {origin}", agent, "Sec-Fetch-Site: same-origin")
        == 200
    )
    assert board.pin(4).level == 1


FOREIGN = [
    ("192.168.1.20", "http://192.168.1.21"),
    ("192.168.1.20", "http://192.168.1.20:8080"),
    ("192.168.1.20:8080", "http://192.168.1.20"),
    ("192.168.1.20:8080", "http://192.168.1.20:80"),
    ("192.168.1.20", "http://192.168.1.200"),
    ("192.168.1.20", "http://192.168.1.2"),
    ("192.168.1.20", "http://evil.example"),
    ("192.168.1.20", "null"),
    ("192.168.1.20", "http://"),
    ("192.168.1.20", "file://"),
    ("192.168.1.20", "192.168.1.20"),
    ("192.168.1.20", "http://192.168.1.20/"),
    ("192.168.1.20", "http://user@192.168.1.20"),
    ("", "null"),
    ("", "http://"),
    ("", "http://:80"),
    ("porch.local", "http://porch.local.evil.example"),
    ("porch.local", "http://porch"),
]


@pytest.mark.parametrize(("host", "origin"), FOREIGN)
def test_a_foreign_page(board: Board, host: str, origin: str) -> None:
    """A request with an Origin that is not the board's own changes nothing."""
    assert post(board, f"Host: {host}", f"Origin: {origin}") == 403
    assert post(board, f"Origin: {origin}") == 403
    assert board.pin(4).level == 0


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "evil.example:8080",
        "board.evil.example",
        "192.168.1.20.evil.example",
        "porch.local.evil.example",
        "porch.local.",
        "evil.example.",
        "local.evil",
        "evil.example:local",
        "evil.notlocal",
    ],
)
def test_a_foreign_name(board: Board, host: str) -> None:
    """Under a name that somebody else can own, the board answers nothing at all (DNS rebinding)."""
    assert post(board, f"Host: {host}") == 403
    assert post(board, f"Host: {host}", f"Origin: http://{host}") == 403
    for path in ("/", "/ui", "/?fence=1"):
        answer = raw(board, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert answer[9:12] == b"403"
        assert b"settings.json" in answer
    assert board.pin(4).level == 0


def test_names_from_the_settings(make_board) -> None:
    """What settings.json lists under `names` is a name of the board; a bad list does no harm."""
    board = make_board()
    for names, status in ((["porch.example.org"], 200), ("nonsense", 403), (5, 403), ({}, 403)):
        (board.flash / "settings.json").write_text(json.dumps({"names": names}))
        board.reset()
        assert post(board, "Host: porch.example.org") == status
        assert post(board, "Host: garden.example.org") == 403
        assert post(board, "Host: 10.0.0.1") == 200


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("none", 200)]
)
def test_where_the_browser_says_it_comes_from(board: Board, site: str, status: int) -> None:
    """Sec-Fetch-Site from elsewhere is refused, with or without an Origin."""
    assert post(board, "Host: 127.0.0.1", f"Sec-Fetch-Site: {site}") == status
    assert board.pin(4).level == (status == 200)


def test_a_foreign_form(board: Board) -> None:
    """Forms can send JSON as text/plain or in parts: the board takes neither."""
    body = b'{"pin": 4, "value": 1, "x=": 1}'
    for kind in ("text/plain", "text/plain; charset=utf-8", "multipart/form-data; boundary=x"):
        assert ask(board, "POST", "/gpio", body, Content_Type=kind).status == 400
    assert board.pin(4).level == 0


def test_an_image_of_the_fence(board: Board) -> None:
    """An <img> on any page can send a GET without Origin: a browser's GET renews nothing."""
    before = ask(board, "GET", "/").json["fence"]
    for headers in (
        {"User_Agent": BROWSER},
        {"Origin": "http://evil.example"},
        {"Sec_Fetch_Site": "cross-site"},
    ):
        answer = ask(board, "GET", f"/?fence={before + 1}", None, **headers)
        assert answer.status == 403
        assert ask(board, "GET", "/", None, **headers).status == 200
    assert ask(board, "GET", "/").json["fence"] == before


def test_its_own_page_reads_the_settings(board: Board) -> None:
    """The page's GET of the settings has no Origin, and off loopback no Sec-Fetch-Site either. Others' are
    refused where the browser says whose they are; elsewhere their scripts may not read the answer."""
    own = ask(board, "GET", "/settings", None, User_Agent=BROWSER)
    assert own.status == 200
    assert not [name for name in own.headers if name.startswith("access-control")]
    for headers in ({"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}):
        answer = ask(board, "GET", "/settings", None, User_Agent=BROWSER, **headers)
        assert answer.status == 403
    assert ask(board, "GET", "/settings?fence=1", None, User_Agent=BROWSER).status == 403


def test_no_other_origin_is_let_in(board: Board) -> None:
    """No answer carries a CORS header, and the question for one (OPTIONS) is a 405."""
    for method, path in (("GET", "/"), ("GET", "/ui"), ("POST", "/gpio"), ("OPTIONS", "/gpio")):
        origin = {"Origin": "http://evil.example", "Access_Control_Request_Method": "POST"}
        answer = ask(board, method, path, None, **origin)
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.status == {"GET": 200, "POST": 403, "OPTIONS": 405}[method]


@pytest.mark.parametrize("name", ["Host", "Origin", "Sec-Fetch-Site", "User-Agent"])
def test_headers_that_are_given_twice(board: Board, name: str) -> None:
    """Of two headers that decide, none is believed; bytes that are no text are no header."""
    assert post(board, f"{name}: 127.0.0.1", f"{name}: 127.0.0.1") == 400
    request = f"GET / HTTP/1.1\r\n{name}: ".encode() + b"\xff\xfe\r\n\r\n"
    assert raw(board, request)[9:12] == b"400"
