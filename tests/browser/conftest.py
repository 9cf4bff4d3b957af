"""Debian's Chromium, driven by playwright, before a simulated board that runs the real firmware.

One browser and one board for all these tests; every test finds the board open, freshly started and without
faults, and gets browser contexts of its own. Nothing but loopback can be reached.
"""

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from firmware.updating import release

from espnet.firmware import Release
from espnet.simulator import Fleet
from espnet.simulator.fleet import Board

from .person import HURRY

ROOT = Path(__file__).parents[2]
AXE = ROOT / "build" / "browser" / "node_modules" / "axe-core" / "axe.min.js"
SCREENSHOTS = ROOT / "build" / "screenshots"

PHONE = (390, 844)
DESK = (1280, 800)


def missing(what: str) -> Any:
    """A tool that is missing skips a test here and fails it in CI."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} is missing")


@pytest.fixture(
    scope="package"
)  # not longer: while playwright is there, nobody else can run a loop
def chromium() -> Iterator[Any]:
    path = shutil.which("chromium")
    if path is None:
        missing("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright")
    arguments = [
        # Only loopback has addresses, and no proxy of the machine's own is asked.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
        "--no-proxy-server",
    ]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@contextlib.contextmanager
def fleet(firmware: Path | None = None) -> Iterator[Board]:
    """A board as `make put` makes them.

    It is ended in another thread: playwright keeps an event loop running in this one.
    """
    boards = Fleet(1, firmware=firmware, compiled=True)
    boards.start()
    try:
        yield boards[0]
    finally:
        ending = threading.Thread(target=boards.stop)
        ending.start()
        ending.join()


@pytest.fixture(scope="package")
def page_board() -> Iterator[Board]:
    with fleet() as board:
        yield board


@pytest.fixture(scope="package")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release that is another one than the board's, and no worse."""
    return release(tmp_path_factory.mktemp("newer") / "esp32")


@pytest.fixture
def board(page_board: Board) -> Board:
    """Open, just started, without faults and without anything that an earlier test set."""
    page_board.clear()
    for file in page_board.flash.glob("*.json"):
        file.unlink()
    shutil.rmtree(page_board.flash / "b", ignore_errors=True)
    page_board.set(board_c=36.5, rssi=-61, wifi=True, speed=1)
    settings = {"hostname": "porch", "wifi": [{"ssid": "home", "password": "a wave or two"}]}
    (page_board.flash / "settings.json").write_text(json.dumps(settings))
    page_board.power(True)
    page_board.reset("power")
    page_board.forget_requests()
    return page_board


@pytest.fixture
def visit(chromium: Any, board: Board) -> Iterator[Callable[..., Any]]:
    """``visit("/ui", PHONE, scripts=(HURRY,), …)``: a page in a context of its own (options as playwright's).

    When the test is over, no page may have thrown an error or broken its own security policy.
    """
    contexts = []
    errors: list[str] = []

    def note(message: Any) -> None:
        if "Content Security Policy" in message.text:
            errors.append(message.text)

    def make(
        path: str | None = "/ui",
        size: tuple[int, int] = PHONE,
        scripts: tuple[str, ...] = (HURRY,),
        **options: Any,
    ) -> Any:
        context = chromium.new_context(
            viewport={"width": size[0], "height": size[1]},
            device_scale_factor=1,
            locale="en-GB",
            **options,
        )
        contexts.append(context)
        context.set_default_timeout(10_000)
        for script in scripts:
            context.add_init_script(script)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", note)
        if path is not None:
            page.goto(f"http://{board.address}{path}")
        return page

    yield make
    for context in contexts:
        # An answer that the test exchanges may be on its way: closed under it, it fails the next test.
        for page in context.pages:
            page.unroute_all(behavior="ignoreErrors")
        context.close()
    assert not errors


@pytest.fixture(scope="package")
def axe() -> str:
    """The source of the accessibility checker."""
    if not AXE.exists():
        missing("axe-core, which `make test` brings,")
    return AXE.read_text(encoding="utf-8")


def picture(page: Any, name: str, full: bool = True) -> None:
    """For people to look at; git does not keep it."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=full, animations="disabled")
