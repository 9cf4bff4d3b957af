"""What a person does on the page, and what a controller does meanwhile."""

import json
from typing import Any

from firmware.digest_client import PASSWORD, Person

from espnet.simulator.fleet import Board

#: The page waits twenty times shorter: between refreshes, and where it tells people to wait.
HURRY = """{
  const later = window.setTimeout;
  window.setTimeout = (what, ms) => later(what, ms / 20);
}"""
#: And it gives up on the board ten times sooner.
IMPATIENT = """{
  const timeout = AbortSignal.timeout;
  AbortSignal.timeout = ms => timeout.call(AbortSignal, ms / 10);
}"""


def expect(what: Any) -> Any:
    from playwright.sync_api import expect as playwright_expect  # where it is missing, tests skip

    playwright_expect.set_options(timeout=20_000)
    return playwright_expect(what)


def switch(page: Any, pin: int) -> Any:
    return page.get_by_role("switch", name=f"Pin {pin}", exact=True)


def row(page: Any, pin: int) -> Any:
    return page.locator("#switches li", has=switch(page, pin))


def button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def log_in(page: Any, password: str = PASSWORD, stay: bool = False) -> None:
    """Does not wait for the outcome."""
    page.locator("#enter:visible, #password:visible").wait_for()
    if button(page, "Log in …").is_visible():
        button(page, "Log in …").click()
    page.get_by_label("Password").fill(password)
    if stay:
        page.get_by_label("Stay logged in").check()
    button(page, "Log in").click()


def control(board: Board, by: str = "heater", fence: int = 1, **fields: Any) -> None:
    """A controller sets a pin of a claimed board."""
    answer = Person(board).ask("POST", "/gpio", {**fields, "by": by, "fence": fence})
    assert answer.status == 200, answer.body


def telling(page: Any, **more: Any) -> None:
    """From now on the board's details have these members."""

    def answer(route: Any) -> None:
        answered = route.fetch()
        route.fulfill(response=answered, body=json.dumps({**answered.json(), **more}))

    page.route("**/details", answer)


def configure(board: Board, **settings: Any) -> None:
    """Puts settings onto the board's flash, as a cable does, and restarts it."""
    (board.flash / "settings.json").write_text(json.dumps(settings))
    board.reset()


def open_settings(page: Any) -> Any:
    """The form, opened."""
    button(page, "Change settings …").click()
    form = page.locator("#settings")
    expect(form).to_be_visible()
    return form


def group(page: Any, name: str) -> Any:
    """What the form has of one network or pin."""
    return page.get_by_role("group", name=name, exact=True)
