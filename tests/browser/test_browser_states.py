"""Every state that the page can be in: readable and reachable for everybody, light and dark, at every width.

Each state leaves its pictures in build/screenshots/.
"""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from firmware.digest_client import claim_by_hand
from firmware.firmware_client import ask, until
from firmware.networking import pass_time, passing
from firmware.updating import act, stage
from firmware.updating import switch as put_on_trial

from espnet.firmware import Release
from espnet.simulator.fleet import Board

from .conftest import DESK, PHONE, picture
from .person import (
    HURRY,
    button,
    configure,
    control,
    expect,
    log_in,
    open_settings,
    row,
    switch,
    telling,
)

#: What a page would run that takes texts for markup. As long as a name of a Wi-Fi may be.
HOSTILE = "<img src=x onerror=hacked=alert>"

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


def in_safe_mode(board: Board, page: Any, go: Callable[[], None]) -> None:
    for _ in range(4):  # all of them short
        board.reset(counted=True)
    opened(board, page, go)
    expect(page.get_by_text("Safe mode: the board died too often.")).to_be_visible()
    expect(switch(page, 4)).to_be_disabled()


def on_trial(board: Board, page: Any, go: Callable[[], None], newer: Release) -> None:
    stage(board, newer)
    put_on_trial(board, newer, minutes=7)
    opened(board, page, go)
    expect(page.get_by_text("Its new program is on trial")).to_be_visible()


def undone(board: Board, page: Any, go: Callable[[], None], newer: Release) -> None:
    stage(board, newer)
    put_on_trial(board, newer)
    boots = board.boots
    assert act(board, "undo", why=HOSTILE).status == 200
    until(lambda: board.boots > boots and board.phase == "ready")
    opened(board, page, go)
    expect(page.get_by_text(f"was undone: {HOSTILE}.")).to_be_visible()


def in_access_point(board: Board, page: Any, go: Callable[[], None]) -> None:
    board.set(wifi=[{"ssid": "garden", "password": "not the right one"}])
    wifi = [{"ssid": "garden", "password": "a wave or two"}, {"ssid": HOSTILE, "password": ""}]
    (board.flash / "settings.good.json").unlink(missing_ok=True)  # or its networks are tried, too
    configure(board, hostname="porch", wifi=wifi, ap={"password": "for the phone"})
    pass_time(board, 6)
    passing(board, lambda: board.network["ap"])
    opened(board, page, go)
    expect(page.get_by_text("opened an access point")).to_be_visible()


def changing(board: Board, page: Any, go: Callable[[], None]) -> None:
    pins = {"4": {"safe": "high"}, "18": {"safe": "low", "pull": "down"}}
    wifi = [{"ssid": "home", "password": "a wave or two"}, {"ssid": HOSTILE, "password": ""}]
    ap = {"password": "for the phone"}
    configure(board, hostname="porch", wifi=wifi, ap=ap, country="AT", pins=pins)
    opened(board, page, go)
    open_settings(page)


def settings_refused(board: Board, page: Any, go: Callable[[], None]) -> None:
    changing(board, page, go)
    page.get_by_label("Country code").fill("Austria")
    button(page, "Save").click()
    expect(page.locator("#settings-error")).to_have_text("country must be two capital letters.")


def settings_saved(board: Board, page: Any, go: Callable[[], None]) -> None:
    changing(board, page, go)
    button(page, "Save").click()
    expect(button(page, "Restart now")).to_be_visible()


STATES = [
    opened, logged_out, wrong_password, logged_in, asked, refused, private, gone, crashed,
    in_safe_mode, on_trial, undone, in_access_point, changing, settings_refused, settings_saved,
]  # fmt: skip
#: These need another release.
UPDATES = (on_trial, undone)
SEEN = """() => ({
  wide: document.documentElement.scrollWidth - innerWidth,
  small: [...document.querySelectorAll("button, select, input, summary, a")]
    .filter(e => e.checkVisibility() && !e.matches(".unseen"))
    .map(e => [e, (e.closest("label.check") || e).getBoundingClientRect()])
    .filter(([, box]) => box.height < 44 || box.width < 44)
    .map(([e, box]) => `${e.outerHTML} ${box.width} x ${box.height}`),
})"""


@pytest.mark.parametrize("state", STATES, ids=[state.__name__ for state in STATES])
def test_every_state_is_for_everybody(state, board, visit, axe, request) -> None:
    """axe finds nothing serious, light or dark; no width makes people scroll sideways or aim below 44 px."""
    page = visit(path=None, scripts=(HURRY,))
    more = [request.getfixturevalue("newer")] if state in UPDATES else []
    state(board, page, lambda: page.goto(f"http://{board.address}/ui"), *more)
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


def seen(page: Any, text: str) -> int:
    """How often a text is seen on the page."""
    return int(page.locator("body").inner_text().lower().count(text.lower()))


def test_safe_mode(board, visit) -> None:
    """Pins rest and say why, once what it means; settings work. A good minute ends it."""
    page = visit(path=None)
    in_safe_mode(board, page, lambda: page.goto(f"http://{board.address}/ui"))
    assert seen(page, "rest until it has run for a minute; settings and updates work.") == 1
    expect(page.locator("#why")).to_have_text("Locked in safe mode.")
    expect(button(page, "Read voltage")).to_be_disabled()
    board.forget_requests()
    switch(page, 4).click(force=True)
    expect(page.locator("#live")).to_have_text("Locked in safe mode.")
    assert [one.path for one in board.requests if one.method == "POST"] == []
    expect(page.get_by_label("Password")).to_be_hidden()
    open_settings(page)
    button(page, "Save").click()
    expect(button(page, "Restart now")).to_be_visible()
    pass_time(board, 1.2)
    expect(switch(page, 4)).to_be_enabled()
    expect(page.locator("#notices")).to_be_hidden()
    expect(page.locator("#why")).to_have_text("")
    switch(page, 4).click()
    expect(switch(page, 4)).to_have_attribute("aria-checked", "true")


def test_a_trial_counts_down_and_ends(board, visit, newer) -> None:
    """A trial says how many minutes are left; undone, what it was, which version, and why."""
    page = visit(path=None)
    on_trial(board, page, lambda: page.goto(f"http://{board.address}/ui"), newer)
    notices = page.locator("#notices")
    expect(notices).to_contain_text("confirms it within 7 min")
    expect(page.locator("#version")).to_have_text(f"Firmware {newer.version} {newer.build}")
    assert switch(page, 4).is_enabled()
    pass_time(board, 2.1, speed=60)  # there is a minute in which it says five
    expect(notices).to_contain_text("confirms it within 5 min")
    pass_time(board, 5.1)
    expect(notices).to_contain_text(
        f"Its new program {newer.version} was undone: it was not confirmed within 7 minutes."
    )
    expect(notices).not_to_contain_text("on trial")
    expect(page.locator("#version")).not_to_contain_text(newer.build)


def test_a_confirmed_trial_says_nothing(board, visit, newer) -> None:
    """What is confirmed is no news."""
    page = visit(path=None)
    on_trial(board, page, lambda: page.goto(f"http://{board.address}/ui"), newer)
    assert act(board, "confirm", newer).status == 200
    expect(page.locator("#notices")).to_be_hidden()


def test_the_way_into_a_network(board, visit) -> None:
    """Without a network the page leads to its settings, and says which networks failed and why; what is
    saved there is tried, and when the board is in, both are gone and the network is named."""
    page = visit(path=None)
    in_access_point(board, page, lambda: page.goto(f"http://{board.address}/ui"))
    expect(page.locator("#network")).to_have_text("none")
    failed = page.locator("#wifi").inner_text().split(", ")  # in any order
    assert sorted(failed) == [f"{HOSTILE}: not found", "garden: wrong password"]
    assert seen(page, f"espnet-{board.id[-6:]}") == 1
    page.get_by_role("link", name="Set up Wi-Fi").click()
    expect(page.get_by_role("heading", name="Settings")).to_be_in_viewport()
    page.keyboard.press("Tab")
    expect(button(page, "Change settings …")).to_be_focused()
    page.keyboard.press("Enter")
    form = page.locator("#settings")
    form.get_by_label("Password").first.fill("not the right one")
    button(page, "Save").click()
    expect(button(page, "Restart now")).to_be_visible()
    passing(board, lambda: board.network["ssid"])
    expect(page.locator("#wifi")).to_have_text(f"garden · 127.0.0.1, {HOSTILE}: not found")
    expect(page.locator("#network")).to_have_text("good")
    pass_time(board, 1.5)
    expect(page.get_by_role("link", name="Set up Wi-Fi")).to_be_hidden()
    expect(page.locator("#notices")).to_be_hidden()


def test_hostile_texts_are_text(board, visit) -> None:
    """Whatever a board says of itself and its surroundings is shown as it is written; nothing of it runs."""
    page = visit(path=None)
    telling(
        page,
        name=HOSTILE,
        wifi={"ssid": HOSTILE, "address": HOSTILE, "failed": {HOSTILE: HOSTILE}, "ap": HOSTILE},
        notices=[HOSTILE],
        undone={"build": HOSTILE, "version": HOSTILE, "why": HOSTILE},
    )
    page.route(
        "**/settings",
        lambda route: route.fulfill(
            json={
                "hostname": HOSTILE,
                "wifi": [{"ssid": HOSTILE, "password": True}],
                "zone": HOSTILE,
                "pins": {HOSTILE: {"safe": HOSTILE}},
            }
        ),
    )
    page.goto(f"http://{board.address}/ui")
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    expect(page.locator("#wifi")).to_have_text(f"{HOSTILE} · {HOSTILE}, {HOSTILE}: {HOSTILE}")
    expect(page.locator("#notice-list")).to_have_text(HOSTILE)
    form = open_settings(page)
    expect(form.locator("[name='wifi.0.ssid']")).to_have_value(HOSTILE)
    expect(form.locator("[name=hostname]")).to_have_value(HOSTILE)
    expect(form.locator("#pins legend")).to_have_text(f"Pin {HOSTILE}")
    assert page.locator("img").count() == 0
    assert page.evaluate("typeof hacked") == "undefined"
