"""The sink that docs/sinks.md shows is one that works."""

import importlib
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from espnet.samples import Sample
from espnet.sinks import Sink, Verdict

PAGE = Path(__file__).parent.parent / "docs" / "sinks.md"
SAMPLES = [
    Sample("esp32.f", 71.5, 1_750_000_000.25, ("name:por=ch", "room:at,tic", "spare")),
    Sample("esp32.gpio", 1, 1_750_000_001.0, ("name:a:b", "pin:4")),
]


class Far(HTTPServer):
    """An intake that keeps what it accepts, and says what it is told to."""

    status = 204

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Door)
        self.lines: list[str] = []


class Door(BaseHTTPRequestHandler):
    server: Far
    timeout = 10

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.server.status == 204:
            self.server.lines += body.split("\n")
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def far() -> Iterator[Far]:
    with Far() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def sink(far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sink:
    """The page's example, from a file of its own as the page says, sending to the far end."""
    examples = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert [name for name, _ in examples] == ["influx"]
    (tmp_path / "influx.py").write_text(examples[0][1], "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "influx", raising=False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("INFLUX_URL", f"http://127.0.0.1:{far.server_port}/api/v2/write")
    made: Sink = importlib.import_module("influx").Influx()
    return made


def test_the_example_delivers(far: Far, sink: Sink) -> None:
    """Accepted samples are at the far end, as lines of its protocol with the names escaped."""
    assert (sink.name, sink.window_s, sink.future_s) == ("influx", None, None)
    assert sink.send(SAMPLES) == (2, Verdict.OK, "", 0, False, None, None, None)
    assert far.lines == [
        r"esp32.f,name=por\=ch,room=at\,tic,spare=true value=71.5 1750000000250",
        r"esp32.gpio,name=a:b,pin=4 value=1 1750000001000",
    ]


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (400, Verdict.BAD),
        (401, Verdict.DENIED),
        (403, Verdict.DENIED),
        (413, Verdict.TOO_LARGE),
        (429, Verdict.BUSY),
        (500, Verdict.BUSY),
    ],
)
def test_the_example_says_why_not(far: Far, sink: Sink, status: int, verdict: Verdict) -> None:
    """Each refusal has the verdict that the page's table explains, and one sentence."""
    far.status = status
    reason = f"InfluxDB answered {status}."
    assert sink.send(SAMPLES) == (0, verdict, reason, 2, False, None, None, status)


def test_the_example_outlives_its_far_end(far: Far, sink: Sink) -> None:
    """Nobody listens: busy, and nothing raises."""
    far.shutdown()
    far.socket.close()
    outcome = sink.send(SAMPLES)
    assert (outcome.accepted, outcome.verdict, outcome.tried) == (0, Verdict.BUSY, 2)


def test_the_page_explains_every_verdict() -> None:
    """The table of verdicts is the whole of `Verdict`."""
    rows = re.findall(r"^\| `([A-Z_]+)` \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert rows == [verdict.name for verdict in Verdict]
