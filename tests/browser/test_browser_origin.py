"""Other people's pages, in a browser that is logged in to the board: by the page, or by its own prompt."""

import contextlib
import http.client
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from firmware.digest_client import PASSWORD, Person, claim_by_hand
from firmware.firmware_client import FIRMWARE, ask, until

from espnet.simulator.fleet import Board

from .conftest import fleet
from .person import button, expect, log_in

FENCE = 999_999_999_999_999
LOGIN = {"username": "espnet", "password": PASSWORD}

#: All that a page can do to make its visitor's browser send something, one after the other. What makes the
#: browser ask for a password does not end by itself.
ATTACKS = """async board => {
  const make = (tag, more) => Object.assign(document.createElement(tag), more);
  const late = () => new Promise(done => setTimeout(done, 5000));
  const settled = work => Promise.race([work.catch(() => 0), late()]);
  const loaded = (element, start = () => document.body.append(element)) => {
    const over = new Promise(done => { element.onload = element.onerror = done; });
    start();
    return Promise.race([over, late()]);
  };
  const json = '{"pin": 4, "value": 1, "fence": 7}', text = "pin=4&value=1&fence=7";
  const url = `${board}/gpio`, query = `${board}/?fence=FENCE`;
  const bodies = [["application/x-www-form-urlencoded", text], ["text/plain", json], ["", json],
    ["application/json", json]];
  for (const credentials of ["include", "same-origin", "omit"])
    for (const mode of ["no-cors", "cors"])
      for (const [kind, body] of bodies) {
        const headers = kind ? { "Content-Type": kind } : {};
        await settled(fetch(url, { method: "POST", mode, credentials, body, headers }));
      }
  for (const enctype of ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"]) {
    const target = make("iframe", { name: `frame-${enctype}` });
    await loaded(target);
    const form = make("form", { method: "POST", action: url, target: target.name, enctype });
    const fields = enctype === "text/plain" ? { '{"pin": 4, "value": 1, "x': '": 1}' }
      : { pin: 4, value: 1, fence: 7 };
    for (const [name, value] of Object.entries(fields)) form.append(make("input", { name, value }));
    document.body.append(form);
    await loaded(target, () => form.submit());
  }
  await loaded(make("img", { src: query }));
  await loaded(make("link", { rel: "stylesheet", href: query }));
  await loaded(make("iframe", { src: query }));
  await settled(fetch(query, { mode: "no-cors", credentials: "include" }));
  await loaded(make("iframe", { src: `${board}/ui` }));
  navigator.sendBeacon(url, new URLSearchParams(text));
  await settled(fetch(url, { method: "POST", mode: "no-cors", body: new URLSearchParams(text) }));
}""".replace("FENCE", str(FENCE))


class Elsewhere(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<!DOCTYPE html><link rel=icon href=data:,><title>Kittens</title><body>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[int]:
    """The port of a web site that is not the board's."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def attack(page: Any, board: Board, origin: str) -> None:
    """In a tab of its own, next to the one that is logged in."""
    tab = page.context.new_page()
    tab.goto(origin)
    board.forget_requests()
    tab.evaluate(ATTACKS, f"http://{board.address}")
    tab.close()


def unharmed(board: Board) -> bool:
    """What the board says when the browser has let go of its places."""

    def look() -> Any:
        with contextlib.suppress(OSError, http.client.HTTPException, KeyError):
            answer = Person(board).ask("GET", "/")
            return answer.json if answer.status == 200 else None

    status = until(look)
    return (board.pin(4).level, status["gpio"]["4"], status["fence"]) == (0, 0, 0)


def by_the_page(visit: Any, board: Board) -> Any:
    page = visit()
    log_in(page, stay=True)
    expect(button(page, "Log out")).to_be_visible()
    return page


def by_the_prompt(visit: Any, board: Board) -> Any:
    page = visit(path="/", http_credentials=LOGIN)
    assert '"gpio"' in page.content()
    return page


#: From its own page the board takes just what it refuses elsewhere.
OWN = {
    by_the_page: "() => call('/gpio', { pin: 4, value: 1, fence: 7 })",
    by_the_prompt: """() => fetch("/gpio", { method: "POST", credentials: "same-origin",
        body: new URLSearchParams("pin=4&value=1&fence=7") })""",
}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("logged_in", [by_the_page, by_the_prompt])
def test_another_page_changes_nothing(board, visit, elsewhere, logged_in, host) -> None:
    """Whatever another origin's page sends, with whatever the browser holds, no pin and no fence changes;
    the same request from the board's own page does change them."""
    claim_by_hand(board, private=True)
    page = logged_in(visit, board)
    attack(page, board, f"http://{host}:{elsewhere}/")
    refused = [request.status for request in board.requests if request.method == "POST"]
    assert len(refused) >= 20  # they did arrive
    assert set(refused) <= {400, 401, 403, 503}
    assert [request.status for request in board.requests if request.path.startswith("/?fence")]
    assert unharmed(board)
    page.evaluate(OWN[logged_in])
    assert board.pin(4).level == 1
    assert Person(board).ask("GET", "/").json["fence"] == 7


@pytest.mark.parametrize("logged_in", [by_the_page, by_the_prompt])
def test_the_board_under_another_name(board, visit, logged_in) -> None:
    """A page from http://localhost is not one from http://127.0.0.1, although both are the board's port."""
    claim_by_hand(board, private=True)
    page = logged_in(visit, board)
    attack(page, board, f"http://localhost:{board.port}/ui")
    assert unharmed(board)


def test_the_attacks_are_real(visit, elsewhere, tmp_path) -> None:
    """On a board without the rules for web pages the same attacks switch the pin and raise the fence."""
    firmware = tmp_path / "firmware"
    shutil.copytree(FIRMWARE, firmware, ignore=shutil.ignore_patterns("__pycache__"))
    text = (firmware / "auth.py").read_text()
    rule = 'raise Refusal(403, "for the board\'s own page only")'
    assert rule in text
    (firmware / "auth.py").write_text(text.replace(rule, "pass"))
    with fleet(firmware) as careless:
        claim_by_hand(careless, private=True)
        page = visit(path=None, http_credentials=LOGIN)
        page.goto(f"http://{careless.address}/")
        attack(page, careless, f"http://127.0.0.1:{elsewhere}/")
        assert not unharmed(careless)
        assert careless.pin(4).level == 1
        assert Person(careless).ask("GET", "/").json["fence"] == FENCE


def test_browsers_own_prompt(board, visit) -> None:
    """Chromium's own login reads a private board with the right password, and is refused with a wrong one."""
    claim_by_hand(board, private=True)
    page = visit(path=None, http_credentials=LOGIN)
    answer = page.goto(f"http://{board.address}/")
    assert answer.status == 200
    assert answer.json()["id"] == board.id
    page = visit(path=None, http_credentials={**LOGIN, "password": "nonsense"})
    with contextlib.suppress(Exception):  # versions differ in whether a refused login is an answer
        assert page.goto(f"http://{board.address}/").status == 401
    assert '"gpio"' not in page.content()
    assert ask(board, "GET", "/").status == 401


def test_the_page_never_makes_the_browser_ask(board, visit) -> None:
    """No call of the page, right or wrong, brings up the browser's own prompt, which keeps passwords."""
    claim_by_hand(board, private=True)
    page = visit(path=None)
    prompts: list[str] = []
    devtools = page.context.new_cdp_session(page)

    def refuse(event: Any) -> None:
        prompts.append(event["request"]["url"])
        cancel = {"response": "CancelAuth"}
        answer = {"requestId": event["requestId"], "authChallengeResponse": cancel}
        devtools.send("Fetch.continueWithAuth", answer)

    def let_pass(event: Any) -> None:
        devtools.send("Fetch.continueRequest", {"requestId": event["requestId"]})

    devtools.on("Fetch.authRequired", refuse)
    devtools.on("Fetch.requestPaused", let_pass)
    devtools.send("Fetch.enable", {"handleAuthRequests": True})
    page.goto(f"http://{board.address}/ui")
    log_in(page, "nonsense")
    expect(page.locator("#login-error")).to_have_text("The password is wrong.")
    log_in(page)
    expect(button(page, "Log out")).to_be_visible()
    assert prompts == []
    with contextlib.suppress(Exception):
        page.goto(f"http://{board.address}/")
    assert prompts  # so this is how one would be seen
