"""What a person with a phone, or at a desk, can do with the page of a claimed board."""

import re

import pytest
from firmware.digest_client import PASSWORD, claim_by_hand, ha1_of
from firmware.firmware_client import ask, until

from .conftest import DESK, PHONE, picture
from .person import button, control, expect, log_in, row, switch

#: What is under way may bring a further call.
SETTLED = """async () => {
  for (let last; last !== queue;) {
    last = queue;
    await last;
    await new Promise(go => setTimeout(go));
  }
}"""
SIZES = pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])


@SIZES
def test_a_day_with_the_board(board, visit, size) -> None:
    """Look, log in, switch, see a lease run, be asked before a controller's pin is switched, be refused."""
    claim_by_hand(board)
    page = visit(size=size)
    name = f"{size[0]}"
    expect(page.get_by_role("heading", level=1)).to_have_text("porch")
    expect(page.locator("#id")).to_have_text(board.id)
    expect(page.locator("#celsius")).to_have_text(re.compile(r"^36\.\d °C$"))
    expect(page.locator("#fahrenheit")).to_have_text(re.compile(r"^9[78]\.\d °F$"))
    expect(page.locator("#network")).to_have_text("good")
    expect(page.locator("#dbm")).to_have_text("-61 dBm")
    expect(page.locator("#cause")).to_have_text("hard reset")

    # Logged out, a switch says why it is locked, leads to the login, and has the focus again after it.
    expect(switch(page, 4)).to_be_disabled()
    expect(page.get_by_text("Locked until you log in.").first).to_be_visible()
    switch(page, 4).click(force=True)
    expect(page.get_by_label("Password")).to_be_focused()
    log_in(page)
    expect(page.get_by_text("You are logged in.").first).to_be_visible()
    expect(switch(page, 4)).to_be_focused()

    switch(page, 4).click()
    expect(switch(page, 4)).to_have_attribute("aria-checked", "true")
    expect(row(page, 4)).to_contain_text(re.compile(r"output\s*this page · just now"))
    expect(page.get_by_role("status").last).to_have_text("Pin 4 is on.")
    assert board.pin(4).level == 1

    control(board, pin=5, value=1, lease_s=40)
    expect(row(page, 5)).to_contain_text("heater decides")
    expect(row(page, 5)).to_contain_text(re.compile(r"lease: (40|39|38) s left, then low"))
    left_s = int(re.findall(r"lease: (\d+) s left", row(page, 5).inner_text())[0])
    expect(row(page, 5)).to_contain_text(f"lease: {left_s - 1} s left, then low")
    picture(page, f"in-{name}")

    # Asked first; "no" changes nothing, nor does Escape; "yes" switches.
    for leave in (
        lambda: button(page, "Leave it on").click(),
        lambda: page.keyboard.press("Escape"),
    ):
        switch(page, 5).click()
        dialog = page.get_by_role("dialog", name="Switch pin 5 off?")
        expect(dialog).to_contain_text(
            "heater decides this pin and will set it back at its next poll."
        )
        expect(dialog).to_contain_text(re.compile(r"Its lease \(\d+ s left, then low\) ends\."))
        expect(button(page, "Leave it on")).to_be_focused()
        picture(page, f"sure-{name}", full=False)
        leave()
        expect(dialog).to_be_hidden()
        expect(switch(page, 5)).to_be_focused()
        assert board.pin(5).level == 1
    switch(page, 5).click()
    button(page, "Switch off").click()
    expect(switch(page, 5)).to_have_attribute("aria-checked", "false")
    expect(row(page, 5)).not_to_contain_text("lease")
    assert board.pin(5).level == 0

    # The board's own sentence, at the field that it is about.
    field = page.get_by_label("Pin of its data line")
    field.fill("34")
    button(page, "Read sensor").click()
    expect(page.locator("#dht-error")).to_have_text(
        "pin 34 is input-only; writable are 0, 2, 4, 5, 12-19, 21-23, 25-27, 32, 33."
    )
    expect(field).to_be_focused()
    expect(field).to_have_attribute("aria-invalid", "true")
    picture(page, f"refused-{name}")


def test_measuring(board, visit) -> None:
    """A voltage and a DHT22 are read when asked for, with units; what fails says so in the board's words."""
    board.set(adc={36: 2048}, dht={4: (21.5, 40)})
    page = visit()
    button(page, "Read voltage").click()
    expect(page.locator("#adc output")).to_contain_text(re.compile(r"about 1\.55 V"))
    expect(page.locator("#adc output")).to_contain_text("2048 of 4095, mean of 20 (2048 to 2048)")
    page.get_by_label("Power pin").fill('"]')
    button(page, "Read voltage").click()
    expect(page.locator("#adc-error")).to_contain_text("power_pin")
    page.get_by_label("Power pin").fill("35")
    button(page, "Read voltage").click()
    expect(page.locator("#adc-error")).to_contain_text("pin 35")
    page.get_by_label("Pin of its data line").fill("4")
    button(page, "Read sensor").click()
    expect(page.locator("#dht output")).to_contain_text("21.5 °C · 70.7 °F · 40.0 %")
    page.get_by_label("Pin of its data line").fill("5")
    button(page, "Read sensor").click()
    expect(page.locator("#dht-error")).to_contain_text("DHT22")
    expect(page.locator("#dht output")).not_to_contain_text("21.5")


def test_logging_in_and_out(board, visit) -> None:
    """The device keeps HA1 and never the password: as long as the tab, or longer when told; then nothing."""
    claim_by_hand(board)
    page = visit()
    kept = "[Object.values({...sessionStorage}), Object.values({...localStorage})]"
    for stay in (False, True):
        log_in(page, stay=stay)
        expect(button(page, "Log out")).to_be_focused()
        found = page.evaluate(kept)
        assert [len(values) for values in found] == ([0, 1] if stay else [1, 0])
        assert ha1_of(board.id) in str(found)
        assert PASSWORD not in str(found)
        assert page.get_by_label("Password").input_value() == ""
        page.reload()
        expect(switch(page, 4)).to_be_enabled()
        tab = page.context.new_page()
        tab.goto(page.url)
        expect(tab.locator("#state")).to_have_text("live")
        expect(switch(tab, 4)).to_be_enabled(enabled=stay)
        tab.close()
        button(page, "Log out").click()
        expect(switch(page, 4)).to_be_disabled()
        assert page.evaluate(kept) == [[], []]
        page.reload()
        expect(button(page, "Log in …")).to_be_visible()
        expect(switch(page, 4)).to_be_disabled()


def test_wrong_passwords(board, visit) -> None:
    """A wrong password is said; after too many, how long to wait; the right one then works all the same."""
    claim_by_hand(board)
    page = visit()
    for _ in range(6):  # five at once; the first of them is nearly forgiven by then
        log_in(page, "nonsense")
        expect(page.locator("#login-error")).to_have_text("The password is wrong.")
        expect(button(page, "Log in")).to_be_enabled()
    log_in(page, "nonsense")
    expect(page.locator("#login-error")).to_have_text(
        re.compile(r"Too many wrong passwords\. Wait \d+ s\.")
    )
    expect(button(page, "Log in")).to_be_disabled()
    expect(button(page, "Log in")).to_be_enabled()
    log_in(page)
    expect(switch(page, 4)).to_be_enabled()


def test_a_private_board(board, visit) -> None:
    """Nothing but the login is shown, before it and after it; what was seen is gone from the page."""
    claim_by_hand(board, private=True)
    page = visit()
    expect(page.get_by_text("This board is private")).to_be_visible()
    assert board.id not in page.locator("body").inner_text()
    expect(page.locator("#all")).to_be_hidden()
    log_in(page)
    expect(page.get_by_role("heading", level=1)).to_have_text("porch")
    switch(page, 4).click()
    expect(switch(page, 4)).to_have_attribute("aria-checked", "true")
    page.reload()
    expect(switch(page, 4)).to_have_attribute("aria-checked", "true")
    button(page, "Log out").click()
    expect(page.locator("#all")).to_be_hidden()
    expect(page.get_by_label("Password")).to_be_focused()
    assert board.id not in page.locator("body").inner_text()


def test_an_open_board_says_so(board, visit) -> None:
    """An open board is switched without a login, and the page says that anybody can."""
    page = visit()
    expect(page.get_by_text("Anybody on this network can switch this board.")).to_be_visible()
    expect(page.get_by_text("espcli register")).to_be_visible()
    expect(button(page, "Log in …")).to_be_hidden()
    switch(page, 33).click()
    expect(switch(page, 33)).to_have_attribute("aria-checked", "true")
    assert board.pin(33).level == 1


def test_what_did_not_switch_is_not_shown_as_on(board, visit) -> None:
    """What the page shows is what the board reads back, not what was wished."""
    page = visit()
    expect(switch(page, 4)).to_be_enabled()
    page.route("**/gpio", lambda route: route.fulfill(json={"status": "OK", "gpio": {"4": 1}}))
    switch(page, 4).click()
    expect(row(page, 4)).to_contain_text("It was set on, and reads off.")
    expect(switch(page, 4)).to_have_attribute("aria-checked", "false")


def test_refreshing_disturbs_nobody(board, visit) -> None:
    """A refresh builds nothing anew, leaves the focus and what is typed, and says nothing."""
    page = visit()
    expect(page.locator("#state")).to_have_text("live")
    page.get_by_label("Power pin").fill("13")
    page.evaluate("""() => {
      window.built = [];
      const elements = one => [...one.addedNodes, ...one.removedNodes].filter(node => node.outerHTML);
      new MutationObserver(all => window.built.push(...all.flatMap(elements).map(node => node.outerHTML)))
        .observe(document.body, { childList: true, subtree: true });
    }""")
    before = page.evaluate("document.querySelector('#switches').getBoundingClientRect().toJSON()")
    board.forget_requests()
    board.set(pins={34: 1})
    assert (
        ask(board, "POST", "/gpio", {"pin": 4, "value": 1, "lease_s": 90, "fence": 3}).status == 200
    )
    expect(row(page, 4)).to_contain_text("lease: 8")
    expect(page.locator("#levels")).to_contain_text("high")
    until(lambda: len([r for r in board.requests if r.path == "/"]) > 5)
    assert page.evaluate("window.built") == []
    assert (
        page.evaluate("document.querySelector('#switches').getBoundingClientRect().toJSON()")
        == before
    )
    expect(page.get_by_label("Power pin")).to_be_focused()
    expect(page.get_by_label("Power pin")).to_have_value("13")
    expect(page.locator("#live")).to_have_text("")


def test_a_hidden_page_asks_nothing(board, visit) -> None:
    """In the background the page is silent; when it comes back it asks at once."""
    page = visit()
    expect(page.locator("#state")).to_have_text("live")
    hide = """hidden => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(hide, True)
    page.evaluate(SETTLED)
    board.forget_requests()
    page.wait_for_timeout(500)  # three times as long as between two refreshes
    assert board.requests == []
    page.evaluate(hide, False)
    until(lambda: board.requests, 10)


def test_a_phone_that_slept(board, visit) -> None:
    """What was tapped on an old picture is done as it was meant, and not the other way round."""
    page = visit()
    expect(page.locator("#state")).to_have_text("live")
    page.evaluate("clearTimeout(timer), seen = new Date(Date.now() - 60000)")
    page.evaluate(SETTLED)
    page.evaluate("clearTimeout(timer)")
    assert ask(board, "POST", "/gpio", {"pin": 4, "value": 1}).status == 200
    page.evaluate("seen = new Date(Date.now() - 60000), rows[4].button.click()")
    expect(page.locator("#live")).to_have_text("Pin 4 is on already.")
    expect(switch(page, 4)).to_have_attribute("aria-checked", "true")
    assert board.pin(4).level == 1


def test_logging_out_is_for_the_device(board, visit) -> None:
    """Who stays logged in on a device and logs out in one tab is logged out in the others."""
    claim_by_hand(board)
    page = visit()
    log_in(page, stay=True)
    expect(button(page, "Log out")).to_be_visible()
    tab = page.context.new_page()
    tab.goto(page.url)
    button(tab, "Log out").click()
    expect(button(page, "Log in …")).to_be_visible()
    assert page.evaluate("login") is None
