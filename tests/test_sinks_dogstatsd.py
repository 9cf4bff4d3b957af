"""The DogStatsD sink, with the real library, over real sockets."""

import math
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espnet.errors import SinkError
from espnet.samples import Sample
from espnet.sinks import SEND_S, Outcome, Sink, Verdict
from espnet.sinks.dogstatsd import UDP_BYTES, UNIX_BYTES, DogStatsd

AT = 1_750_000_000.75
#: A gauge with a time, as the Agent reads one: the time is a whole number from 1 on.
LINE = re.compile(
    r"(?P<metric>[A-Za-z][A-Za-z0-9_.]*):(?P<value>[^|:\n]+)\|g(\|#(?P<tags>[^|\n]*))?\|T(?P<at>[1-9][0-9]*)"
)


class Agent:
    """Where datagrams arrive, and what they say."""

    def __init__(self, receiver: socket.socket, address: str) -> None:
        self.receiver, self.address = receiver, address
        receiver.settimeout(0)

    def datagrams(self) -> list[bytes]:
        """What has arrived since the last time: the kernel delivers on this machine at once."""
        found = []
        try:
            while True:
                found.append(self.receiver.recv(100_000))
        except BlockingIOError:
            return found

    def lines(self) -> list[re.Match[str]]:
        text = b"".join(self.datagrams()).decode()
        assert not text or text.endswith("\n")
        matches = [LINE.fullmatch(line) for line in text.splitlines()]
        assert None not in matches, text
        return [match for match in matches if match]

    def samples(self) -> list[Sample]:
        return [
            Sample(
                m["metric"], float(m["value"]), float(m["at"]), tuple((m["tags"] or "").split(","))
            )
            for m in self.lines()
        ]


@pytest.fixture
def udp() -> Iterator[Agent]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        yield Agent(receiver, f"127.0.0.1:{receiver.getsockname()[1]}")


@pytest.fixture
def unix(short_path: Path) -> Iterator[Agent]:
    path = str(short_path / "dsd.socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        yield Agent(receiver, f"unix://{path}")


@pytest.fixture(params=["udp", "unix"])
def agent(request: pytest.FixtureRequest) -> Agent:
    agent: Agent = request.getfixturevalue(request.param)
    return agent


def samples(count: int = 1, tags: tuple[str, ...] = ("id:a", "name:porch")) -> list[Sample]:
    return [Sample("esp32.f", 20.5 + n, AT - n, tags) for n in range(count)]


def whole_seconds(sent: list[Sample]) -> list[Sample]:
    return [Sample(s.metric, s.value, float(int(s.at)), s.tags) for s in sent]


def test_accepted_samples_arrive_with_their_times(agent: Agent) -> None:
    """Metric, value, tags, and the time in whole seconds."""
    sink: Sink = DogStatsd(agent.address)
    assert sink.send(samples(3)) == Outcome(3)
    assert agent.samples() == whole_seconds(samples(3))
    assert sink.send([]) == Outcome(0)
    assert agent.datagrams() == []


@pytest.mark.parametrize(("kind", "most_bytes"), [("udp", UDP_BYTES), ("unix", UNIX_BYTES)])
def test_datagrams_are_full_and_not_too_full(
    kind: str, most_bytes: int, request: pytest.FixtureRequest
) -> None:
    """Many samples to a datagram, counted in bytes and not in letters; each is whole lines."""
    agent: Agent = request.getfixturevalue(kind)
    for tags in (("id:a",), ("name:wärme温室",), ("ä" * 190, "ö" * 190)):
        sent = samples(30, tags)
        assert DogStatsd(agent.address).send(sent) == Outcome(30)
        datagrams = agent.datagrams()
        assert all(len(datagram) <= most_bytes for datagram in datagrams)
        assert all(datagram.endswith(b"\n") for datagram in datagrams)
        longest = max(len(line) for d in datagrams for line in d.splitlines(keepends=True))
        assert all(len(datagram) > most_bytes - longest for datagram in datagrams[:-1])
        assert sum(datagram.count(b"\n") for datagram in datagrams) == 30


def test_a_long_sample_travels_alone_and_an_endless_one_not_at_all(udp: Agent) -> None:
    """Up to what the Agent reads at once; more would be cut, and is bad."""
    long, endless = samples(1, ("x" * 5_000,)), samples(1, ("x" * 9_000,))
    outcome = DogStatsd(udp.address).send([*samples(2), *long, *samples(1), *endless, *samples(1)])
    reason = "A sample of esp32.f is longer than the Agent reads at once."
    assert outcome == Outcome(4, Verdict.BAD, reason, tried=1)
    assert [d.count(b"\n") for d in udp.datagrams()] == [2, 1, 1]


BAD = {
    "nan": Sample("m", math.nan, AT, ()),
    "infinite": Sample("m", -math.inf, AT, ()),
    "no time": Sample("m", 1.0, 0.9, ()),
    "a time before 1970": Sample("m", 1.0, -AT, ()),
    "a time that is none": Sample("m", 1.0, math.nan, ()),
    "a time without end": Sample("m", 1.0, math.inf, ()),
    "no name": Sample("", 1.0, AT, ()),
    "a name with a value": Sample("m:1|g\nother", 1.0, AT, ()),
    "a name with a line's end": Sample("m\n", 1.0, AT, ()),
    "a name that is an event": Sample("_e{1,1}", 1.0, AT, ()),
    "a name that is a check": Sample("_sc", 1.0, AT, ()),
    "a name with a bar": Sample("a|b", 1.0, AT, ()),
    "half a character": Sample("m\ud800", 1.0, AT, ()),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_what_the_protocol_cannot_say_is_bad(bad: Sample, agent: Agent) -> None:
    """It is named and never leaves; what came before it is delivered."""
    outcome = DogStatsd(agent.address).send([*samples(3), bad, *samples(2)])
    assert outcome == Outcome(3, Verdict.BAD, outcome.reason, tried=1)
    assert outcome.reason.endswith(" cannot be said in DogStatsD's protocol.")
    assert outcome.reason.isprintable()
    assert agent.samples() == whole_seconds(samples(3))


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(metric=st.text(max_size=9), tags=st.lists(st.text(max_size=9), max_size=3).map(tuple))
def test_no_text_changes_another_sample(metric: str, tags: tuple[str, ...], unix: Agent) -> None:
    """Whatever is in names and tags: the neighbours arrive as they are, and it is a line or bad."""
    sink = DogStatsd(unix.address)
    odd = Sample(metric, 1.0, AT, tags)
    before, after = samples(1), samples(1, ("id:z",))
    outcome = sink.send([*before, odd, *after])
    if outcome.verdict is Verdict.BAD:
        assert outcome.accepted == 1
        assert unix.samples() == whole_seconds(before)
    else:
        first, middle, last = unix.samples()
        assert [first, last] == whole_seconds([*before, *after])
        assert (middle.metric, middle.value) == (metric, 1.0)
        assert len(middle.tags) == max(len(tags), 1)
    sink.close()


def test_a_tag_s_forbidden_characters_become_what_datadog_makes_of_them(unix: Agent) -> None:
    """A comma in a device's name is ``_``, here as there; letters of any script stay."""
    DogStatsd(unix.address).send(samples(1, ("name:kitchen, left|x", "ort:küche/温.1-2_3")))
    (sample,) = unix.samples()
    assert sample.tags == ("name:kitchen__left_x", "ort:küche/温.1-2_3")


# --- what the kernel does not take --------------------------------------------------------------


def test_nobody_at_the_port_is_busy() -> None:
    """On this machine the kernel knows that nobody listens, and nothing is called accepted."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    sink = DogStatsd(address)
    outcomes = [sink.send(samples(4)) for _ in range(20)]
    reason = f"DogStatsD at {address} cannot be sent to (Connection refused)."
    refused = Outcome(0, Verdict.BUSY, reason, tried=4)
    # The word of it may come a moment late on a busy machine, and never twice.
    assert outcomes.count(refused) > 10
    assert set(outcomes) <= {refused, Outcome(4)}


def test_no_socket_is_busy_until_there_is_one(short_path: Path) -> None:
    """The Agent may start later than we do, and start again."""
    path = short_path / "dsd.socket"
    sink = DogStatsd(f"unix://{path}")
    for _ in range(2):
        reason = f"DogStatsD at unix://{path} cannot be sent to (No such file or directory)."
        assert sink.send(samples(4)) == Outcome(0, Verdict.BUSY, reason, tried=4)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            receiver.bind(str(path))
            assert sink.send(samples(4)) == Outcome(4)
        reason = f"DogStatsD at unix://{path} cannot be sent to (Connection refused)."
        assert sink.send(samples(4)) == Outcome(0, Verdict.BUSY, reason, tried=4)
        path.unlink()


def test_an_agent_that_does_not_read_is_busy(unix: Agent) -> None:
    """What the kernel took is accepted, exactly; the first datagram without room is what was tried."""
    sent = samples(20_000)
    sink = DogStatsd(unix.address, timeout_s=0.05)
    outcome = sink.send(sent)
    reason = f"DogStatsD at {unix.address} takes no more for now."
    assert outcome == Outcome(outcome.accepted, Verdict.BUSY, reason, outcome.tried)
    assert 0 < outcome.tried < 200
    assert unix.samples() == whole_seconds(sent[: outcome.accepted])
    rest = sent[outcome.accepted :][:100]
    assert sink.send(rest) == Outcome(100)
    assert unix.samples() == whole_seconds(rest)


def test_a_send_waits_for_a_slow_agent(unix: Agent) -> None:
    """Room that comes in time is used: a backlog does not end at the first full queue."""
    received: list[bytes] = []

    def read() -> None:
        unix.receiver.settimeout(10)
        while sum(datagram.count(b"\n") for datagram in received) < 20_000:
            received.append(unix.receiver.recv(100_000))

    thread = threading.Thread(target=read)
    thread.start()
    outcome = DogStatsd(unix.address).send(samples(20_000))
    thread.join(20)
    assert outcome == Outcome(20_000)
    assert not thread.is_alive()


def test_a_send_ends_in_its_time(unix: Agent) -> None:
    """No datagram begins after it; what was taken is accepted, and the rest may come at once."""
    assert DogStatsd(unix.address)._within_s < SEND_S
    reason = f"DogStatsD at {unix.address} took 0 samples in the time there was."
    expected = Outcome(0, Verdict.BUSY, reason, retry_after_s=0.0)
    assert DogStatsd(unix.address, within_s=0.0).send(samples(4)) == expected


def test_a_datagram_too_long_for_the_kernel_may_be_sent_in_parts(unix: Agent) -> None:
    """Several samples are too large; one alone is bad."""
    sink = DogStatsd(unix.address)
    for count, verdict in ((8, Verdict.TOO_LARGE), (1, Verdict.BAD)):
        sink.send(samples())
        assert sink._socket is not None
        sink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        outcome = sink.send(samples(count, ("x" * (7_800 // count),)))
        assert outcome == Outcome(0, verdict, outcome.reason, tried=count)
        assert "Message too long" in outcome.reason


def test_what_we_may_not_is_denied() -> None:
    """A person must do something; the broadcast address is one that nobody may send to unasked."""
    outcome = DogStatsd("255.255.255.255:8125").send(samples(4))
    assert outcome == Outcome(0, Verdict.DENIED, outcome.reason, tried=4)
    assert outcome.reason.endswith("cannot be sent to (Permission denied).")


def test_a_socket_of_another_kind_is_busy(short_path: Path) -> None:
    """Not what the Agent listens at."""
    path = str(short_path / "stream.socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.bind(path)
        stream.listen()
        outcome = DogStatsd(f"unix://{path}").send(samples(4))
    assert outcome == Outcome(0, Verdict.BUSY, outcome.reason, tried=4)


def test_a_name_that_nobody_knows_is_busy() -> None:
    """RFC 6761: ``.invalid`` never resolves."""
    outcome = DogStatsd("agent.invalid:8125").send(samples(4))
    assert outcome == Outcome(0, Verdict.BUSY, outcome.reason, tried=4)


# --- only what we say ---------------------------------------------------------------------------


def test_the_library_adds_nothing_of_its_own(udp: Agent) -> None:
    """No thread, no metric about metrics, no tag."""
    threads = threading.active_count()
    sink = DogStatsd(udp.address)
    for _ in range(50):
        sink.send(samples())
    assert threading.active_count() == threads
    assert set(udp.datagrams()) == {b"esp32.f:20.5|g|#id:a,name:porch|T1750000000\n"}


def test_the_environment_changes_nothing(udp: Agent) -> None:
    """What the library would take from it is not taken: places, tags, switches."""
    environment = {
        "DD_AGENT_HOST": "10.255.255.1",
        "DD_DOGSTATSD_PORT": "9",
        "DD_DOGSTATSD_URL": "udp://10.255.255.1:9",
        "DD_DOGSTATSD_DISABLE": "true",
        "DD_TELEMETRY_HOST": "127.0.0.1",
        "DD_TELEMETRY_PORT": udp.address.rpartition(":")[2],
        "DATADOG_TAGS": "a:b,c:d",
        "DD_TAGS": "a:b",
        "DD_ENV": "prod",
        "DD_SERVICE": "house",
        "DD_VERSION": "1",
        "DD_ENTITY_ID": "pod",
        "DD_EXTERNAL_ENV": "it-false,cn-nginx",
        "DD_ORIGIN_DETECTION_ENABLED": "true",
        "DD_CARDINALITY": "high",
        "DATADOG_CARDINALITY": "high",
    }
    code = (
        "from espnet.samples import Sample; from espnet.sinks.dogstatsd import DogStatsd;"
        f"print(DogStatsd({udp.address!r}).send([Sample('m', 1.0, {AT}, ('id:a',))] * 3).accepted)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("3\n", "")
    assert udp.datagrams() == [b"m:1.0|g|#id:a|T1750000000\n" * 3]


def test_the_library_is_imported_by_the_first_send_only() -> None:
    """Commands that send nothing do not pay for the library."""
    code = (
        "import sys; from espnet.sinks.dogstatsd import DogStatsd; DogStatsd();"
        "sys.exit(bool({'datadog', 'requests', 'urllib3'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "address",
    [
        "",
        ":8125",
        "host:0",
        "host:port",
        "host:99999",
        "host/path",
        "me@host:1",
        "udp://host:1",
        "[::1:8125",
        "unix://",
        "unix://relative",
        "unix:///" + "x" * 200,
        "unix:///a\0b",
    ],
)
def test_an_address_that_cannot_be_one_is_refused_at_once(address: str) -> None:
    """Said at the start, with an example of one."""
    with pytest.raises(SinkError, match=r"such as 127\.0\.0\.1:8125"):
        DogStatsd(address)


def test_addresses_of_every_kind_are_understood() -> None:
    """A name, IPv4, IPv6 in brackets; the port may be left out."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as receiver:
        try:
            receiver.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        agent = Agent(receiver, f"[::1]:{receiver.getsockname()[1]}")
        assert DogStatsd(agent.address).send(samples()) == Outcome(1)
        assert len(agent.lines()) == 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        agent = Agent(receiver, f"localhost:{receiver.getsockname()[1]}")
        assert DogStatsd(agent.address).send(samples()) == Outcome(1)
        assert len(agent.lines()) == 1
    DogStatsd("agent.example")
