"""What a visit costs a board that has a few KB and a slow radio."""

import json
from typing import Any

from .person import expect

VISIT_MAX = 16 * 1024


def test_a_visit_fits_into_16_kb(board, visit) -> None:
    """Page, status and details of a first visit take 16 KB, heads included; nothing else is asked for."""
    page = visit(path=None, scripts=())
    urls: dict[str, str] = {}
    sizes: dict[str, int] = {}
    devtools = page.context.new_cdp_session(page)

    def began(event: Any) -> None:
        urls[event["requestId"]] = event["request"]["url"].removeprefix(f"http://{board.address}")

    def ended(event: Any) -> None:
        url = urls[event["requestId"]]
        sizes[url] = sizes.get(url, 0) + int(event["encodedDataLength"])

    devtools.on("Network.requestWillBeSent", began)
    devtools.on("Network.loadingFinished", ended)
    devtools.send("Network.enable")
    page.goto(f"http://{board.address}/ui")
    expect(page.locator("#state")).to_have_text("live")
    expect(page.get_by_role("switch").first).to_be_visible()
    print(json.dumps(sizes), sum(sizes.values()))
    assert list(sizes) == ["/ui", "/", "/details"]
    assert sum(sizes.values()) <= VISIT_MAX
    assert [request.path for request in board.requests] == ["/ui", "/", "/details"]
