"""The settings, seen and changed by a person on the board's own page."""

import gzip
import json
from typing import Any
from urllib.parse import urljoin

import pytest
from firmware.digest_client import Person, claim_by_hand
from firmware.firmware_client import WRITABLE, ask, until

from espnet.simulator.fleet import Board

from .conftest import DESK, PHONE, picture
from .person import HURRY, button, configure, expect, group, log_in, open_settings, switch

SECRETS = ("correct horse", "battery staple", "for the phone", "hunter22!")
FULL: dict[str, Any] = {
    "hostname": "porch",
    "names": ["porch.example.org"],
    "wifi": [
        {"ssid": "home", "password": SECRETS[0]},
        {"ssid": "Änne's", "password": ""},
        {"ssid": " garden ", "password": SECRETS[1]},
    ],
    "address": {
        "ip": "127.0.0.9", "mask": "255.0.0.0", "gateway": "127.0.0.1", "dns": "127.0.0.1",
    },
    "country": "AT",
    "zone": "Europe/Vienna",
    "watchdog_s": 60,
    "ap": {"password": SECRETS[2]},
    "ntp": "",
    "pins": {"4": {"safe": "high"}, "18": {"safe": "low", "pull": "down"}, "36": {"pull": "none"}},
}  # fmt: skip


def on_flash(board: Board) -> dict[str, Any]:
    """What holds from the next restart on."""
    found: dict[str, Any] = json.loads((board.flash / "settings.json").read_text())
    return found


def save(page: Any) -> None:
    """Saves what is in the form, which the board must take."""
    button(page, "Save").click()
    expect(page.locator("#settings-note")).to_contain_text("Saved")


def test_what_is_not_touched_stays(board, visit) -> None:
    """Opened and saved, all settings are what they were: passwords, too, and what the form does not show."""
    configure(board, **FULL)
    page = visit()
    form = open_settings(page)
    expect(form.get_by_label("Time zone")).to_have_value("Europe/Vienna")
    expect(form.get_by_label("Gateway")).to_have_value("127.0.0.1")
    expect(group(page, "Pin 18").get_by_label("Pull")).to_have_value("down")
    expect(group(page, "Network 2").get_by_label("Open network")).to_be_checked()
    for _ in range(2):
        save(page)
        assert on_flash(board) == FULL
    configure(board)
    page.reload()
    open_settings(page)
    save(page)
    assert on_flash(board) == {"wifi": [], "pins": {}, "ntp": "pool.ntp.org"}


def test_no_password_comes_or_stays(board, visit) -> None:
    """No password that the board has is in the page, and none that was typed is after it was saved."""
    configure(board, **FULL)
    page = visit()
    open_settings(page)
    button(page, "Add a network").click()
    group(page, "Network 4").get_by_label("Name").fill("shed")
    group(page, "Network 4").get_by_label("Password").fill(SECRETS[3])
    save(page)
    assert on_flash(board)["wifi"][3] == {"ssid": "shed", "password": SECRETS[3]}
    values = page.evaluate("[...document.querySelectorAll('input')].map(one => one.value)")
    stored = page.evaluate("[{...sessionStorage}, {...localStorage}]")
    for secret in SECRETS:
        assert secret not in page.content() + str(values) + str(stored)
    expect(group(page, "Network 4").get_by_label("Password")).to_have_attribute(
        "placeholder", "unchanged"
    )
    assert page.locator("input[type=password]:not([autocomplete=new-password])").count() == 1


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_by_keyboard(board, visit, size) -> None:
    """All of it without a mouse: the focus is never lost, and the board has what was typed."""
    configure(board, wifi=[{"ssid": "home", "password": SECRETS[0]}])
    page = visit(size=size)
    expect(page.locator("#state")).to_have_text("live")
    button(page, "Change settings …").focus()
    keys = page.keyboard
    keys.press("Enter")
    expect(page.get_by_role("heading", name="Wi-Fi networks, the best first")).to_be_focused()
    for _ in range(6):
        keys.press("Tab")
    expect(button(page, "Add a network")).to_be_focused()
    keys.press("Enter")
    expect(group(page, "Network 2").get_by_label("Name")).to_be_focused()
    keys.type("shed")
    keys.press("Tab")
    keys.type(SECRETS[3])
    keys.press("Tab")
    keys.press("Tab")
    keys.press("Space")  # moved up, it is network 1
    expect(button(group(page, "Network 1"), "Move up")).to_be_focused()
    expect(group(page, "Network 1").get_by_label("Name")).to_have_value("shed")
    keys.press("Space")  # the first one stays
    keys.press("Tab")
    keys.press("Tab")
    expect(group(page, "Network 2").get_by_label("Name")).to_be_focused()
    for _ in range(4):
        keys.press("Tab")
    keys.press("Space")
    expect(button(page, "Add a network")).to_be_focused()
    keys.press("Tab")
    keys.press("Space")
    keys.type(SECRETS[2])
    expect(page.get_by_label("Add a pin")).to_be_visible()
    page.get_by_label("Add a pin").focus()
    keys.type("5")
    keys.press("Tab")
    page.get_by_label("Add a pin").select_option("5")
    safe = group(page, "Pin 5").get_by_label("Safe level")
    expect(safe).to_be_focused()
    keys.press("h")
    keys.press("Enter")
    button(page, "Save").focus()
    keys.press("Enter")
    expect(page.locator("#live")).to_have_text("Saved.")
    assert on_flash(board) == {
        "wifi": [{"ssid": "shed", "password": SECRETS[3]}],
        "ap": {"password": SECRETS[2]},
        "ntp": "pool.ntp.org",
        "pins": {"5": {"safe": "high"}},
    }
    keys.press("Tab")
    keys.press("Enter")  # Close
    expect(button(page, "Change settings …")).to_be_focused()


def test_removing_and_opening(board, visit) -> None:
    """Networks, access point, pins and values that are removed are gone; a network can be made open."""
    configure(board, **FULL)
    page = visit()
    form = open_settings(page)
    button(group(page, "Network 2"), "Remove").click()
    expect(group(page, "Network 2").get_by_label("Name")).to_have_value(" garden ")
    group(page, "Network 1").get_by_label("Open network").check()
    expect(group(page, "Network 1").get_by_label("Password")).to_be_disabled()
    form.locator("#aps").get_by_role("button", name="Remove").click()
    button(group(page, "Pin 4"), "Remove").click()
    group(page, "Pin 18").get_by_label("Pull").select_option("")
    for label in ("Address", "Mask", "Gateway", "DNS", "Country code", "Time zone", "Watchdog"):
        form.get_by_label(label).fill("")
    save(page)
    assert on_flash(board) == {
        "hostname": "porch",
        "names": ["porch.example.org"],
        "wifi": [{"ssid": "home", "password": ""}, {"ssid": " garden ", "password": SECRETS[1]}],
        "ntp": "",
        "pins": {"18": {"safe": "low"}, "36": {"pull": "none"}},
    }


WRONG = [
    ("hostname", "a b", "hostname must be 1 to 32 letters, digits or -, and no - at the ends."),
    ("country", "at", "country must be two capital letters."),
    ("zone", "somewhere else", "zone must be a name of the IANA time zone database."),
    ("ntp", "a b", "ntp must be a host name or an IPv4 address."),
    ("watchdog_s", "9", "watchdog_s must be a whole number from 10 to 600."),
    ("watchdog_s", "soon", "watchdog_s must be a whole number from 10 to 600."),
    ("address.mask", "24", "address.mask must be an IPv4 address."),
    ("address.dns", "", "address.dns must be an IPv4 address."),
    ("wifi.0.password", "short", "wifi[0].password must have 8 to 63 characters, or none."),
    ("wifi.2.ssid", "", "wifi[2].ssid must be text of 1 to 32 bytes."),
    ("wifi.2.ssid", "ä" * 17, "wifi[2].ssid must be text of 1 to 32 bytes."),
    # Without its name nobody knows which password would be kept.
    ("wifi.0.ssid", "house", "wifi[0].password must have 8 to 63 characters, or none."),
    ("ap.password", "x" * 64, "ap.password must have 8 to 63 characters."),
    ("pins.36.safe", "low", "pins.36 cannot be set so."),
]


@pytest.mark.parametrize(("name", "value", "sentence"), WRONG, ids=lambda text: text[:20])
def test_the_boards_sentence_at_its_field(board, visit, name, value, sentence) -> None:
    """What the board refuses is said in its words below the field that it names, which has the focus. Nothing
    is saved, nothing typed is lost, and what is right the next time is taken."""
    configure(board, **FULL)
    page = visit()
    form = open_settings(page)
    field = form.locator(f'[name="{name}"]')
    before = field.input_value()
    field.select_option(value) if name.startswith("pins") else field.fill(value)
    button(page, "Save").click()
    blamed = form.locator("[aria-invalid=true]")
    expect(blamed).to_be_focused()
    expect(blamed).to_have_accessible_description(sentence)
    blame = "wifi.0.password" if value == "house" else name
    expect(blamed).to_have_attribute("name", blame)
    below = "one => one.closest('label').nextElementSibling.textContent"
    assert blamed.evaluate(below) == sentence
    expect(page.locator("#live")).to_have_text(sentence)
    expect(field).to_have_value(value)
    assert on_flash(board) == FULL
    expect(button(page, "Restart now")).to_be_hidden()
    field.select_option(before) if name.startswith("pins") else field.fill(before)
    save(page)
    assert on_flash(board) == FULL
    expect(form.locator("[aria-invalid=true]")).to_have_count(0)
    expect(page.get_by_text(sentence)).to_have_count(0)


def test_a_password_is_kept_or_typed(board, visit) -> None:
    """A network or access point without a password to keep asks for one before anything is sent."""
    page = visit()
    open_settings(page)
    button(page, "Add an access point").click()
    expect(page.locator("#aps input")).to_be_focused()
    expect(button(page, "Add an access point")).to_be_hidden()
    page.locator("#aps").get_by_role("button", name="Remove").click()
    expect(button(page, "Add an access point")).to_be_focused()
    button(page, "Add an access point").click()
    board.forget_requests()
    button(page, "Save").click()
    expect(page.locator("#aps input")).to_be_focused()
    assert not [one for one in board.requests if one.method == "POST"]


def test_too_much_for_the_board(board, visit) -> None:
    """More than the board has room for is refused in its words, also where no one field is to blame."""
    configure(board, names=[f"{n}{'x' * 60}.example.org" for n in range(8)])
    page = visit()
    form = open_settings(page)
    for number in range(1, 9):
        button(page, "Add a network").click()
        group(page, f"Network {number}").get_by_label("Name").fill(f"{number}" * 32)
        group(page, f"Network {number}").get_by_label("Password").fill("x" * 63)
    for number in WRITABLE:
        page.get_by_label("Add a pin").select_option(str(number))
        group(page, f"Pin {number}").get_by_label("Safe level").select_option("high")
        group(page, f"Pin {number}").get_by_label("Pull").select_option("down")
    button(page, "Save").click()
    expect(page.locator("#settings-error")).to_have_text("settings may have 2048 bytes at most.")
    expect(form.locator("[aria-invalid=true]")).to_have_count(0)
    button(page, "Add a network").click()
    group(page, "Network 9").get_by_label("Name").fill("one too many")
    group(page, "Network 9").get_by_label("Open network").check()
    for number in range(1, 9):
        group(page, f"Network {number}").get_by_label("Open network").check()
    button(page, "Save").click()
    expect(page.locator("#settings-error")).to_have_text(
        "wifi must be a list of 8 networks at most."
    )
    # Where the row at which it stood goes, it is not lost.
    button(group(page, "Network 1"), "Remove").click()
    group(page, "Network 1").get_by_label("Name").fill("")
    button(page, "Save").click()
    expect(page.locator("#settings-error")).to_contain_text("wifi[0].ssid")


def test_restarting(board, visit) -> None:
    """Saved settings hold after a restart. The page says what becomes of bad ones, asks, and comes back."""
    page = visit()
    form = open_settings(page)
    expect(button(page, "Restart now")).to_be_hidden()
    form.get_by_label("Name", exact=True).last.fill("veranda")
    save(page)
    note = page.locator("#settings-note")
    expect(note).to_contain_text("after a restart")
    expect(note).to_contain_text("within ten minutes")
    expect(note).to_contain_text("goes back to the last ones that worked, if there are any")
    boots = ask(board, "GET", "/").json["boots"]
    button(page, "Restart now").click()
    expect(page.get_by_role("dialog", name="Restart the board?")).to_contain_text("safe levels")
    button(page, "Not now").click()
    expect(button(page, "Restart now")).to_be_focused()
    assert ask(board, "GET", "/").json["boots"] == boots
    button(page, "Restart now").click()
    button(page, "Restart").click()
    expect(note).to_have_text("The board restarts, perhaps with another address.")
    expect(button(page, "Change settings …")).to_be_focused()
    expect(page.get_by_role("heading", level=1)).to_have_text("veranda")
    expect(page.locator("#boots")).to_have_text(f"start no. {boots + 1}")
    until(lambda: ask(board, "GET", "/settings").json["hostname"] == "veranda")


@pytest.mark.parametrize("private", [False, True], ids=["readable", "private"])
def test_a_claimed_board(board, visit, private) -> None:
    """Settings take the password. After logging out nothing of them is in the page."""
    configure(board, **FULL)
    claim_by_hand(board, private=private)
    page = visit()
    edit = button(page, "Change settings …")
    if private:
        log_in(page)
    else:
        edit.click()
        expect(page.get_by_label("Password")).to_be_focused()
        board.forget_requests()
        log_in(page)
        expect(edit).to_be_focused()
        assert "/settings" not in [one.path for one in board.requests]
    form = open_settings(page)
    form.get_by_label("Time zone").fill("Europe/Rome")
    group(page, "Network 1").get_by_label("Password").fill(SECRETS[3])
    save(page)
    assert on_flash(board)["zone"] == "Europe/Rome"
    group(page, "Network 1").get_by_label("Password").fill("typed, not saved")
    button(page, "Log out").click()
    expect(form).to_be_hidden()
    kept = page.evaluate("[...document.querySelectorAll('#settings input')].map(one => one.value)")
    assert set(kept) == {""}
    assert "Änne" not in page.content()
    assert Person(board).ask("GET", "/settings").json["zone"] == "Europe/Vienna"


def test_another_password_while_typing(board, visit) -> None:
    """When the password was changed meanwhile, nothing is saved, and the login is asked for."""
    claim_by_hand(board)
    page = visit()
    log_in(page)
    expect(button(page, "Log out")).to_be_visible()
    open_settings(page)
    before = on_flash(board)
    for path in ("/", "/details"):  # so that it does not see the board restart
        answer_as_before(page, path)
    claim_by_hand(board, "another")
    button(page, "Save").click()
    expect(page.locator("#login-error")).to_contain_text("the board has another password now")
    expect(page.locator("#settings")).to_be_hidden()
    assert on_flash(board) == before


def answer_as_before(page, path) -> None:
    """From now on the page gets the answer that the board gives at this moment."""
    now = page.request.get(urljoin(page.url, path))
    assert now.ok
    page.route(urljoin(page.url, path), lambda route: route.fulfill(response=now))


def test_what_is_typed_survives_a_lost_board(board, visit) -> None:
    """A board that is gone for a while takes nothing with it: the form stays, and saves when it is back."""
    page = visit()
    form = open_settings(page)
    form.get_by_label("Time zone").fill("Europe/Rome")
    board.fault("refuse")
    expect(page.locator("#gone")).to_be_visible()
    button(page, "Save").click()
    expect(page.locator("#live")).to_have_text("Locked: no answer from the board.")
    board.clear()
    expect(page.locator("#gone")).to_be_hidden()
    expect(form.get_by_label("Time zone")).to_have_value("Europe/Rome")
    save(page)
    assert on_flash(board)["zone"] == "Europe/Rome"


def test_settings_of_another_board(board, visit) -> None:
    """What was typed for one board is not saved on the one that has got its address."""
    page = visit()
    form = open_settings(page)
    form.get_by_label("Time zone").fill("Europe/Rome")
    before = on_flash(board)
    board.fault("wrong_id", path="/")
    expect(page.locator("#settings-note")).to_have_text("Another board answers here now.")
    expect(form).to_be_hidden()
    assert on_flash(board) == before


def test_settings_that_cannot_be_read(board, visit) -> None:
    """When the settings do not come, the page says why, and they can be asked for again."""
    page = visit()
    expect(page.locator("#state")).to_have_text("live")
    board.fault("http_500", path="/settings", count=1)
    button(page, "Change settings …").click()
    expect(page.locator("#settings-note")).not_to_have_text("")
    open_settings(page)
    expect(page.locator("#settings-note")).to_have_text("")


def test_in_the_access_point(board, visit) -> None:
    """At 192.168.4.1, where a browser knows neither TLS nor Sec-Fetch-Site, the page reads and saves."""
    claim_by_hand(board)
    page = visit(path=None, scripts=(HURRY,))
    agent = page.evaluate("navigator.userAgent")

    def carry(route: Any) -> None:
        """The network between a phone and the access point, which nobody can join here."""
        request = route.request
        names = ("authorization", "content-type", "origin")
        headers = {name: request.headers[name] for name in names if name in request.headers}
        headers |= {"host": "192.168.4.1", "user-agent": agent}
        if request.method == "POST":
            headers["origin"] = "http://192.168.4.1"
        path = request.url.removeprefix("http://192.168.4.1")
        answer = ask(board, request.method, path, request.post_data_buffer, **headers)
        headers, body = dict(answer.headers), answer.body
        if headers.pop("content-encoding", ""):
            body = gzip.decompress(body)
        del headers["content-length"]
        route.fulfill(status=answer.status, headers=headers, body=body)

    page.route("http://192.168.4.1/**", carry)
    page.goto("http://192.168.4.1/ui")
    assert page.evaluate("isSecureContext") is False
    log_in(page)
    expect(switch(page, 4)).to_be_enabled()
    open_settings(page)
    group(page, "Network 1").get_by_label("Name").fill("shed")
    group(page, "Network 1").get_by_label("Password").fill(SECRETS[3])
    save(page)
    assert on_flash(board)["wifi"] == [{"ssid": "shed", "password": SECRETS[3]}]
    picture(page, "settings-at-192.168.4.1")
