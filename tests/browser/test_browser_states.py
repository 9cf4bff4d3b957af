"""Every state that the page can be in: readable and reachable for everybody, light and dark, at every width.

Each state leaves its pictures in build/screenshots/.
"""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from firmware.digest_client import claim_by_hand
from firmware.firmware_client import ask

from .conftest import DESK, PHONE, picture
from .person import HURRY, IMPATIENT, button, control, expect, log_in, row, switch, telling

TRACEBACK = """Traceback (most recent call last):
  File "web.py", line 301, in _exchange
  File "calls.py", line 113, in gpio
  File "hardware.py", line 142, in set_pins
ZeroDivisionError: divide by zero
"""


def opened(board: Any, page: Any, go: Callable[[], None]) -> None:
    go()
    expect(page.locator("#state")).to_have_text("live")


def logged_out(board: Any, page: Any, go: Callable[[], None]) -> None:
    claim_by_hand(board)
    go()
    expect(button(page, "Log in …")).to_be_visible()


def wrong_password(board: Any, page: Any, go: Callable[[], None]) -> None:
    logged_out(board, page, go)
    log_in(page, "nonsense")
    expect(page.locator("#login-error")).to_have_text("The password is wrong.")


def logged_in(board: Any, page: Any, go: Callable[[], None]) -> None:
    logged_out(board, page, go)
    control(board, pin="5,18", value=1, lease_s=40)
    control(board, pin=19, value=0, fence=2, by="a controller")
    control(
        board,
        pin=12,
        value=1,
        fence=2,
        by="greenhouse-controller-in-the-shed",
        lease_s=86400,
        safe="hold",
    )
    log_in(page)
    expect(switch(page, 4)).to_be_enabled()
    switch(page, 4).click()
    expect(switch(page, 4)).to_have_attribute("aria-checked", "true")
    expect(row(page, 5)).to_contain_text("then low")


def asked(board: Any, page: Any, go: Callable[[], None]) -> None:
    logged_in(board, page, go)
    switch(page, 5).click()
    expect(page.get_by_role("dialog")).to_be_visible()


def refused(board: Any, page: Any, go: Callable[[], None]) -> None:
    opened(board, page, go)
    page.get_by_label("Pin of its data line").fill("34")
    button(page, "Read sensor").click()
    expect(page.locator("#dht-error")).to_contain_text("input-only")
    board.fault("http_500", path="/gpio", count=1)
    switch(page, 2).click()
    expect(row(page, 2)).to_contain_text("it is on all the same")


def private(board: Any, page: Any, go: Callable[[], None]) -> None:
    claim_by_hand(board, private=True)
    go()
    expect(page.get_by_text("This board is private")).to_be_visible()


def gone(board: Any, page: Any, go: Callable[[], None]) -> None:
    opened(board, page, go)
    board.fault("refuse")
    expect(page.get_by_text("What you see is from then.").first).to_be_visible()


def crashed(board: Any, page: Any, go: Callable[[], None]) -> None:
    (board.flash / "crash.json").write_text(json.dumps(TRACEBACK))
    board.reset("watchdog")
    opened(board, page, go)
    expect(page.get_by_text("its watchdog restarted it")).to_be_visible()
    page.get_by_text("The last crash, before this start").click()
    telling(page, crash={"text": TRACEBACK, "ago_s": 4000})
    expect(page.get_by_text("The last crash, 1 h 6 min ago")).to_be_visible()
    expect(page.get_by_text("ZeroDivisionError")).to_be_visible()


STATES = [
    opened, logged_out, wrong_password, logged_in, asked, refused, private, gone, crashed,
]  # fmt: skip
SEEN = """() => ({
  wide: document.documentElement.scrollWidth - innerWidth,
  small: [...document.querySelectorAll("button, select, input, summary")]
    .filter(e => e.checkVisibility() && !e.matches(".unseen"))
    .map(e => [e, (e.closest("label.check") || e).getBoundingClientRect()])
    .filter(([, box]) => box.height < 44 || box.width < 44)
    .map(([e, box]) => `${e.outerHTML} ${box.width} x ${box.height}`),
})"""


@pytest.mark.parametrize("state", STATES, ids=[state.__name__ for state in STATES])
def test_every_state_is_for_everybody(state, board, visit, axe) -> None:
    """axe finds nothing serious, light or dark; no width makes people scroll sideways or aim below 44 px."""
    page = visit(path=None, scripts=(HURRY, IMPATIENT))
    state(board, page, lambda: page.goto(f"http://{board.address}/ui"))
    page.evaluate(axe)
    for scheme, size in (("light", PHONE), ("dark", DESK)):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size({"width": size[0], "height": size[1]})
        picture(page, f"{state.__name__}-{size[0]}-{scheme}", full=state not in (asked, gone))
        found = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
        serious = [
            (each["id"], [node["html"] for node in each["nodes"]])
            for each in found
            if each["impact"] in ("serious", "critical")
        ]
        assert not serious
    for width in (320, 390, 768, 1280, 1600):
        page.set_viewport_size({"width": width, "height": 800})
        seen = page.evaluate(SEEN)
        assert seen["wide"] <= 0, width
        assert seen["small"] == [], width


def test_older_firmware(board, visit) -> None:
    """A board without /details is shown with what its status says, and is not asked again and again."""
    page = visit(path=None)
    page.route(
        "**/details", lambda route: route.fulfill(status=404, json={"error": "no", "field": None})
    )
    asked_for = []
    page.on("request", lambda request: asked_for.append(request.url.rpartition("/")[2]))
    page.goto(f"http://{board.address}/ui")
    assert ask(board, "POST", "/gpio", {"pin": 4, "value": 1, "lease_s": 30}).status == 200
    expect(row(page, 4)).to_contain_text("s left, then low")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Board {board.id}")
    expect(page.locator("#network")).to_have_text("not known")
    switch(page, 4).click()
    expect(page.get_by_role("dialog")).to_contain_text("Pin 4 stays off until somebody sets it.")
    button(page, "Switch off").click()
    expect(switch(page, 4)).to_have_attribute("aria-checked", "false")
    assert asked_for.count("details") == 1
    assert asked_for.count("") > 1


def test_readers_find_their_way(board, visit) -> None:
    """Landmarks, headings in order, and a name for everything that can be used."""
    page = visit()
    expect(page.locator("#state")).to_have_text("live")
    expect(page.get_by_role("main")).to_have_count(1)
    expect(page.get_by_role("banner")).to_have_count(1)
    levels = [
        int(tag[1])
        for tag in page.evaluate(
            "[...document.querySelectorAll('h1,h2,h3')].filter(h => h.checkVisibility()).map(h => h.tagName)"
        )
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    expect(page.get_by_role("switch")).to_have_count(20)
    page.keyboard.press("Tab")
    expect(switch(page, 0)).to_be_focused()
    page.keyboard.press("Space")
    expect(switch(page, 0)).to_have_attribute("aria-checked", "true")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert outline == "3px"
