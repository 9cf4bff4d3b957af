"""A board that restarts, gets another password, is slow, full or gone, and what its page makes of that."""

import re
import select
import shutil
import socket
import time
from itertools import dropwhile
from typing import Any

import pytest
from firmware.digest_client import Person, claim_by_hand, ha1_of
from firmware.firmware_client import FIRMWARE, ask, until
from firmware.test_firmware_claim import rotate

from espnet.simulator.fleet import Board

from .conftest import fleet
from .person import HURRY, IMPATIENT, button, expect, log_in, row, switch

PRIVATE = pytest.mark.parametrize("private", [False, True], ids=["readable", "private"])


def logged_in(board: Board, visit: Any, private: bool) -> Any:
    claim_by_hand(board, private=private)
    page = visit()
    log_in(page)
    expect(switch(page, 4)).to_be_enabled()
    return page


def since_a_fault(board: Board) -> int:
    """How many calls came since the first that met a fault, that one included."""
    return len(list(dropwhile(lambda request: request.fault is None, board.requests)))


def refused(board: Board) -> int:
    """How many calls were challenged."""
    return [request.status for request in board.requests].count(401)


@PRIVATE
def test_one_challenge_is_enough(board, visit, private) -> None:
    """Once logged in, the page is not challenged again: it uses its nonce on, one call at a time."""
    page = logged_in(board, visit, private)
    board.forget_requests()
    page.evaluate("[4, 5, 18].forEach(pin => rows[pin].button.click())")
    for pin in (4, 5, 18):
        expect(switch(page, pin)).to_have_attribute("aria-checked", "true")
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    expect(page.locator("#switches .error:visible")).to_have_count(0)
    assert refused(board) == 0
    assert all(request.overlap == 0 for request in board.requests)


@PRIVATE
def test_the_board_restarts(board, visit, private) -> None:
    """After a restart, which ends all nonces, the login holds: one new challenge, and nothing is asked."""
    page = logged_in(board, visit, private)
    board.forget_requests()
    board.reset("watchdog")
    expect(page.locator("#cause")).to_have_text("watchdog reset")
    switch(page, 4).click()
    expect(switch(page, 4)).to_have_attribute("aria-checked", "true")
    assert refused(board) == 1
    assert board.pin(4).level == 1
    expect(page.get_by_label("Password")).to_be_hidden()


@PRIVATE
def test_another_password(board, visit, private) -> None:
    """When the password was changed meanwhile, the page says so, forgets the old one and asks for the
    new one; what was to be switched is not."""
    page = logged_in(board, visit, private)
    answer = rotate(Person(board), ha1_of(board.id, "another"), private=str(private).lower())
    assert answer.status == 200
    if not private:
        switch(page, 4).click()
    expect(page.locator("#login-error")).to_contain_text("the board has another password now")
    assert page.evaluate("sessionStorage.length + localStorage.length") == 0
    assert board.pin(4).level == 0
    if private:
        expect(page.locator("#all")).to_be_hidden()
    log_in(page, "another")
    switch(page, 4).click()
    expect(switch(page, 4)).to_have_attribute("aria-checked", "true")


def test_another_password_before_the_next_visit(board, visit) -> None:
    """What a device kept too long is tried once, erased, and the login is asked for."""
    claim_by_hand(board)
    page = visit()
    log_in(page, stay=True)
    expect(switch(page, 4)).to_be_enabled()
    claim_by_hand(board, "another")
    page.reload()
    expect(page.locator("#login-error")).to_contain_text("the board has another password now")
    expect(switch(page, 4)).to_be_disabled()
    assert page.evaluate("sessionStorage.length + localStorage.length") == 0


def test_nonces_that_grow_old(visit, tmp_path) -> None:
    """The page goes on with the nonce that the board offers next, so it is never challenged again."""
    firmware = tmp_path / "firmware"
    shutil.copytree(FIRMWARE, firmware, ignore=shutil.ignore_patterns("__pycache__"))
    text = (firmware / "auth.py").read_text()
    life = "_LIFE_MS = const(600000)"
    assert life in text
    (firmware / "auth.py").write_text(text.replace(life, "_LIFE_MS = const(1200)"))
    with fleet(firmware) as board:
        claim_by_hand(board, private=True)
        page = visit(path=None)
        page.goto(f"http://{board.address}/ui")
        log_in(page)
        expect(switch(page, 4)).to_be_enabled()
        board.forget_requests()
        start = time.monotonic()
        until(
            lambda: time.monotonic() - start > 2.6 and len(board.requests) > 20
        )  # more than two lives
        assert refused(board) == 0
        page.goto("about:blank")


def test_a_slow_board(board, visit) -> None:
    """A board that takes too long is said to be silent since its last answer, then found again."""
    page = visit(scripts=(HURRY, IMPATIENT))
    expect(page.locator("#state")).to_have_text("live")
    board.fault("slow", bytes_per_s=20)
    gone = page.locator("#gone")
    expect(gone).to_contain_text(
        re.compile(r"No answer since \d\d:\d\d:\d\d\. What you see is from then\.")
    )
    expect(gone).to_contain_text("No answer in time.")
    expect(page.locator("#live")).to_contain_text("What you see is from then.")
    expect(switch(page, 4)).to_be_disabled()
    board.clear()
    expect(gone).to_be_hidden()
    expect(switch(page, 4)).to_be_enabled()
    expect(page.locator("#live")).to_have_text("The board answers again.")


def test_a_board_without_power(board, visit) -> None:
    """A board that is gone is said to be gone, in the first visit too, and found again."""
    page = visit()
    expect(page.locator("#state")).to_have_text("live")
    board.power(False)
    expect(page.locator("#state")).to_have_text("no answer")
    expect(page.locator("#gone")).to_contain_text("The connection failed.")
    board.power(True)
    expect(page.locator("#state")).to_have_text("live")


def taken(board) -> socket.socket:
    """A connection that takes its place by beginning a request."""
    other = socket.create_connection(("127.0.0.1", board.port))
    other.sendall(b"GET / HTTP/1.1\r\n")
    return other


def test_a_full_board(board, visit) -> None:
    """Whoever gets no place is told so in the board's words; when there is one, all is well again."""
    page = visit()
    expect(page.locator("#state")).to_have_text("live")
    others = [taken(board) for _ in range(8)]
    try:

        def is_told() -> bool:
            for index, other in enumerate(
                others
            ):  # one that was turned away, or timed out, comes again
                if select.select([other], [], [], 0)[0]:
                    other.close()
                    others[index] = taken(board)
            text = page.locator("#gone").text_content() or ""
            return "Too many connections at once; try again." in text

        until(is_told)
    finally:
        for other in others:
            other.close()
    expect(page.locator("#gone")).to_be_hidden()


def test_answers_that_are_none(board, visit) -> None:
    """One answer that is lost, garbled or a 500 disturbs nobody; an error is shown where it was caused."""
    page = visit()
    expect(page.locator("#state")).to_have_text("live")
    page.evaluate("""() => {
      const live = document.querySelector("#live");
      window.said = [];
      new MutationObserver(() => window.said.push(live.textContent)).observe(live, { childList: true });
    }""")
    for fault in ("rst", "truncated", "not_json", "http_500", "cut", "missing_keys"):
        board.forget_requests()
        board.fault(fault, count=1)
        until(lambda: since_a_fault(board) > 4)  # two in a row would be news
        expect(page.locator("#state")).to_have_text("live")
    assert page.evaluate("window.said") == []
    # The simulator has this one carried out; a real 500 may come before or after it.
    board.fault("http_500", path="/gpio", count=1)
    switch(page, 4).click()
    expect(row(page, 4)).to_contain_text("it is on all the same.")
    switch(page, 4).click()
    expect(row(page, 4)).not_to_contain_text("all the same")
    page.route(
        "**/gpio",
        lambda route: route.fulfill(status=503, json={"error": "pin 4 is stuck", "field": "pin"}),
    )
    switch(page, 4).click()
    expect(row(page, 4)).to_contain_text("Not switched: pin 4 is stuck.")


def test_a_request_whose_answer_is_lost(board, visit) -> None:
    """The board may have heard a request whose answer did not come: the page says so, and shows the truth."""
    page = visit()
    expect(page.locator("#state")).to_have_text("live")
    board.fault("cut", path="/gpio", count=2)  # the browser repeats what a closed connection lost
    switch(page, 4).click()
    expect(row(page, 4)).to_contain_text("it is on all the same.")
    expect(switch(page, 4)).to_have_attribute("aria-checked", "true")
    assert board.pin(4).level == 1


def test_another_board_at_the_same_address(board, visit) -> None:
    """What was kept for one board is not sent to another one that has its address now."""
    page = logged_in(board, visit, True)
    expect(button(page, "Log out")).to_be_visible()
    page.evaluate("login.realm = 'EspNet 000000000000'; login.nonce = ''")
    board.forget_requests()
    expect(page.get_by_text("This board is private")).to_be_visible()
    assert page.evaluate("login") is None


def test_another_board_at_the_address(board, visit) -> None:
    """What was meant for one board is not done by the one that has got its address, while the page asked."""
    fields = {"pin": 5, "value": 1, "lease_s": 60, "fence": 7, "by": "heater"}
    assert ask(board, "POST", "/gpio", fields).status == 200
    page = visit()
    switch(page, 5).click()
    expect(button(page, "Switch off")).to_be_visible()
    board.fault("wrong_id", path="/")
    expect(page.locator("#id")).not_to_have_text(board.id)
    button(page, "Switch off").click()
    expect(row(page, 5)).to_contain_text("Another board answers here now")
    assert board.pin(5).level == 1
