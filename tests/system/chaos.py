"""A house in which everything fails at once, by a seed, and the laws that hold in it all the same.

Three collectors share light boards while collectors are killed and stand still, Redis is killed and
stands still, and boards fail, restart and are switched by hand. What happened is read afterwards from the
boards' own logs: they are the only ones that cannot be wrong about what they were asked.
"""

import asyncio
import contextlib
import itertools
import random
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import msgspec
import requests
from conftest import RedisProcess

from espnet.errors import StoreUnavailable
from espnet.model import Device, Reading, Timer
from espnet.simulator.light import LightFleet, LightHandle, LightRequest
from espnet.store import PRESENT_S
from espnet.trip import MAX_BACKOFF_S

from .world import Run, World, wait_for

COLLECTORS, INTERVAL_S, TIMEOUT_S = 3, 2.0, 0.4
TTL_S = 3 * TIMEOUT_S + 5
#: What a busy machine and the heartbeat may add, in seconds.
SLACK_S = 2.0
#: A board that is healthy, in a house that is, is polled at least so often, in seconds: whoever had it died
#: with its lock.
MOST_S = INTERVAL_S + TTL_S + SLACK_S
#: Who leaves a board after so long without an answer had a time-out: it waited a little longer than a busy
#: board may notice. Who leaves earlier, and asks anew, should not have been asking.
MOST_WAIT_S = 0.75 * TIMEOUT_S
#: Collectors look so often, and are not thought dead while they wait for Redis a little.
HEARTBEAT = "5"
#: So often the boards' own loop is looked at, in seconds.
LOOK_S = 0.02
PIN = 4
FAULTS = ("hang", "http_500", "rst", "cut", "truncated", "not_json")


class Chaos:
    """``run(seconds)`` does it all; `gaps`, `overlaps` and `wrong_pins` are what should not have been."""

    def __init__(
        self, world: World, redis: RedisProcess, fleet: LightFleet, seed: int, claimed: int
    ) -> None:
        self.world, self.redis, self.fleet = world, redis, fleet
        self.luck = random.Random(seed)
        self.names = [f"b{number}" for number in range(len(fleet))]
        self._claimed = claimed
        self.runs: list[Run] = []
        self._stopped: dict[Run, float] = {}
        #: What was done, for people: (monotonic seconds, what).
        self.done: list[tuple[float, str]] = []
        #: When all boards, or one, had a reason not to be polled or not to be right, monotonic seconds.
        self.reasons: list[tuple[float, float]] = []
        self.reasons_of: dict[str, list[tuple[float, float]]] = {name: [] for name in self.names}
        self.began_s = self.ended_s = 0.0
        #: Two looks of the boards' own loop with a pause between them, and the look after those.
        self._stood: list[tuple[float, float, float]] = []
        fleet.run(self._watch_the_boards())

    async def _watch_the_boards(self) -> None:
        loop = asyncio.get_running_loop()

        def look(first_s: float, second_s: float) -> None:
            now_s = time.monotonic()
            if second_s - first_s > LOOK_S + 0.05:
                self._stood.append((first_s, second_s, now_s))
            loop.call_later(LOOK_S, look, second_s, now_s)

        look(time.monotonic(), time.monotonic())

    def _came_s(self, request: LightRequest) -> float:
        """When it came at the earliest: while the boards' process stood still, nobody read what came."""
        stood = (from_s for from_s, _, to_s in self._stood if from_s <= request.at_s <= to_s)
        return min(stood, default=request.at_s)

    # --- the house ------------------------------------------------------------------------------

    def furnish(self) -> None:
        """Registers all boards: some with a password, by the command, the others open. Every other one's
        pin is to be on, and off that of the rest."""
        some = self.world.folder / "boards.txt"
        with some.open("w") as file:
            for board, name in list(zip(self.fleet, self.names, strict=True))[: self._claimed]:
                file.write(f"{board.address} {name}\n")
        self.world.espcli("register_all", str(some))
        with self.world.store() as store:
            for number, (board, name) in enumerate(zip(self.fleet, self.names, strict=True)):
                if number >= self._claimed:
                    store.add(
                        Device(id=board.id, name=name, address=board.address),
                        Reading(
                            at=0.0,
                            poll_s=0.0,
                            interval_s=INTERVAL_S,
                            collector="",
                            status=msgspec.Raw(_status_of(board)),
                        ),
                        first_due=time.time() + number * INTERVAL_S / len(self.fleet),
                    )
                job = Timer(
                    name="lamp",
                    pin=PIN,
                    start="00:00",
                    hours=24,
                    zone="UTC",
                    invert=number % 2 == 1,
                )
                store.change_jobs(name, lambda _, __, job=job: (job,), now=time.time())

    def level_of(self, number: int) -> int:
        """What the board's pin should be."""
        return 1 - number % 2

    def start(self) -> None:
        for _ in range(COLLECTORS):
            self.runs.append(self.world.start(HEARTBEAT, ESPNET_FILE=self._file()))
        self._until_none_is("wrong", self._wrong_now, 60)

    def _file(self) -> str:
        return str(self.world.folder / f"samples{len(self.world.runs)}.jsonl")

    def _wrong_now(self) -> list[int]:
        return [
            number
            for number, board in enumerate(self.fleet)
            if board.pin(PIN).level != self.level_of(number)
        ]

    def _until_none_is(self, what: str, left: Callable[[], list[int]], timeout_s: float) -> None:
        """Returns when no board is left. Those that fail may be left for one pause after a failure more."""
        try:
            wait_for(f"no board is {what}", lambda: not left(), timeout_s)
        except AssertionError:
            self._require_failing(left())
            wait_for(f"no board is {what}", lambda: not left(), MAX_BACKOFF_S)

    def _require_failing(self, numbers: list[int]) -> None:
        with self.world.store() as store:
            turns, now = store.schedule(), time.time()
            for number in numbers:
                board, view = self.fleet[number], store.view(self.names[number])
                turn = turns.get(board.id)
                print(view.device.name, board.describe(), view.fault, view.reading)
                print(turn, turn and turn.at - now, time.monotonic(), *board.requests[-9:])
                assert view.fault, f"{view.device.name} is left behind, and Redis knows no reason"

    # --- what happens ---------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Lets things happen for so long; then everything gets well again, and is stopped in order."""
        for board in self.fleet:
            board.forget_requests()
        self.began_s = time.monotonic()
        end_s = self.began_s + seconds
        deeds = [
            (self._kill, 3),
            (self._freeze, 3),
            (self._thaw, 3),
            (self._replace, 3),
            (self._kill_redis, 1),
            (self._freeze_redis, 1),
            (self._fault, 12),
            (self._reset, 4),
            (self._unplug, 2),
            (self._switch, 8),
            (self._dawdle, 4),
            (self._hurry, 8),
        ]
        while (now_s := time.monotonic()) < end_s:
            (deed,) = self.luck.choices([d for d, _ in deeds], [often for _, often in deeds])
            deed()
            self._thaw_late()
            time.sleep(min(self.luck.expovariate(4), end_s - now_s))  # things happen now and then
        for run in list(self._stopped):
            self._go_on(run)
        for board in self.fleet:
            board.clear()  # some are to fail a dozen times more, each time after a longer pause
        self.ended_s = time.monotonic()
        self._until_none_is("wrong", self._wrong_now, 2 * MOST_S)
        since_s = time.monotonic()
        self._until_none_is("unpolled", lambda: self._unpolled_since(since_s), 2 * MOST_S)
        with self.world.store() as store:
            queues = [row[0].decode() for row in store._schedule(args=[store.prefix])]
        assert sorted(queues) == sorted(board.id for board in self.fleet)
        for run in self.runs:
            assert run.stop() == 0, run.log[-2000:]

    def _unpolled_since(self, since_s: float) -> list[int]:
        return [
            number
            for number, board in enumerate(self.fleet)
            if not (board.requests and board.requests[-1].at_s > since_s)
        ]

    def _say(self, what: str) -> None:
        self.done.append((time.monotonic(), what))

    def _working(self) -> list[Run]:
        return [run for run in self.runs if run not in self._stopped]

    def _kill(self) -> None:
        if len(self._working()) > 1:
            run = self.luck.choice(self.runs)
            if run in self._stopped or len(self._working()) > 1:
                self._stopped.pop(run, None)
                self.runs.remove(run)
                run.process.kill()
                run.process.wait()
                self._say(f"killed {run.pid}")

    def _freeze(self) -> None:
        if len(self._working()) > 1:
            run = self.luck.choice(self._working())
            run.send(signal.SIGSTOP)
            self._stopped[run] = time.monotonic() + self.luck.uniform(0.2, TTL_S + PRESENT_S)
            self._say(f"froze {run.pid}")

    def _thaw(self) -> None:
        if self._stopped:
            self._go_on(self.luck.choice(list(self._stopped)))

    def _thaw_late(self) -> None:
        for run, until_s in list(self._stopped.items()):
            if time.monotonic() > until_s:
                self._go_on(run)

    def _go_on(self, run: Run) -> None:
        del self._stopped[run]
        run.send(signal.SIGCONT)
        self._say(f"let {run.pid} go on")

    def _replace(self) -> None:
        if len(self.runs) < COLLECTORS:
            self.runs.append(self.world.start(HEARTBEAT, ESPNET_FILE=self._file()))
            self._say(f"started {self.runs[-1].pid}")

    @contextlib.contextmanager
    def _reason(self, *names: str, then_s: float = 0.0) -> Iterator[None]:
        """What happens inside is a reason for these boards, or for all."""
        began_s = time.monotonic()
        yield
        found = (began_s, time.monotonic() + then_s)
        for name in names:
            self.reasons_of[name].append(found)
        if not names:
            self.reasons.append(found)

    def _kill_redis(self) -> None:
        with self._reason():
            self.redis.kill()
            self._say("killed Redis")
            time.sleep(self.luck.uniform(0.0, 2.0))  # so long it is away
            self.redis.start()
        self._say("started Redis")

    def _freeze_redis(self) -> None:
        with self._reason():
            self.redis.pause()
            self._say("froze Redis")
            time.sleep(self.luck.uniform(0.2, 3.0))  # so long it is silent
            self.redis.resume()

    def _any(self) -> tuple[int, LightHandle]:
        number = self.luck.randrange(len(self.fleet))
        return number, self.fleet[number]

    def _fault(self) -> None:
        number, board = self._any()
        kind, count = self.luck.choice(FAULTS), self.luck.randint(1, 3)
        # Until it has met so many requests, and the longest pause after so many failures.
        with self._reason(self.names[number], then_s=count * 4 * INTERVAL_S):
            board.fault(kind, count=count)
        self._say(f"{kind} of {self.names[number]}, {count} times")

    def _reset(self) -> None:
        number, board = self._any()
        board.reset(self.luck.choice(["hard", "watchdog", "power"]))
        self._say(f"reset {self.names[number]}")

    def _unplug(self) -> None:
        number, board = self._any()
        with self._reason(self.names[number], then_s=4 * INTERVAL_S):
            board.power(False)
            time.sleep(self.luck.uniform(0.1, 1.0))  # so long it has no power
            board.power(True)
        self._say(f"unplugged {self.names[number]} for a moment")

    def _dawdle(self) -> None:
        """Some boards take their time to answer from now on, or no longer: a good part of the time-out."""
        latency_s = self.luck.choice([0.0, 0.3 * TIMEOUT_S, 0.6 * TIMEOUT_S])
        for number in self.luck.sample(range(len(self.fleet)), len(self.fleet) // 6):
            self.fleet[number].set(latency_s=latency_s)

    def _hurry(self) -> None:
        """Many boards are due at once, those too that are being visited."""
        names = self.luck.sample(range(len(self.fleet)), len(self.fleet) // 3)
        with contextlib.suppress(StoreUnavailable), self.world.store() as store:
            store.wake([self.fleet[number].id for number in names], time.time())

    def _switch(self) -> None:
        """Somebody in the house uses the board's page: an open board's."""
        number = self.luck.randrange(self._claimed, len(self.fleet))
        body = {"pin": PIN, "value": self.luck.choice([0, 1])}
        with contextlib.suppress(requests.RequestException):
            requests.post(f"http://{self.fleet[number].address}/gpio", data=body, timeout=1)
            self._say(f"switched {self.names[number]}")

    # --- what should not have been --------------------------------------------------------------

    def _is_reasonable(self, name: str, since_s: float, until_s: float, most_s: float) -> bool:
        """Whether what lasted so long is so but for known reasons: what is left of it is within ``most_s``.

        After a reason the board has as long as after any other mishap.
        """
        reasons = sorted(self.reasons + self.reasons_of[name] + self._said_of(name))
        left_s, at_s = 0.0, since_s
        for began_s, ended_s in reasons:
            if began_s < until_s and ended_s + most_s > at_s:
                left_s += max(0.0, began_s - at_s)
                at_s = max(at_s, ended_s + most_s)
        return left_s + max(0.0, until_s - at_s) <= most_s

    def _said_of(self, name: str) -> list[tuple[float, float]]:
        """What the collectors' logs give as reasons: a board is spared, or was lost, which lasts until it
        answers a poll."""
        if not hasattr(self, "_told"):
            self._told: dict[str, list[tuple[float, float]]] = {one: [] for one in self.names}
            answered = {
                name: [p.at_s for p in _polls(board) if p.status == 200 and _is_well(p)]
                for name, board in zip(self.names, self.fleet, strict=True)
            }
            offset_s = time.time() - time.monotonic()
            for run in self.world.runs:
                for event in run.events("board.lost", "board.slowed"):
                    at_s, of = _seconds(event["at"]) - offset_s, event["name"]
                    until_s = at_s + 4 * INTERVAL_S
                    if event["event"] == "board.lost":
                        until_s = next((t for t in answered[of] if t > at_s), self.ended_s)
                    self._told[of].append((at_s, until_s))
        return self._told[name]

    def gaps(self) -> list[str]:
        """Pauses between two polls that are longer than an interval and a lock, and no reason is known; or
        longer than any pause after a failure, whatever the reason."""
        found = []
        for number, (board, name) in enumerate(zip(self.fleet, self.names, strict=True)):
            times = [r.at_s for r in _polls(board)]
            times = [self.began_s, *(t for t in times if t >= self.began_s)]
            assert len(times) > 2, (number, name)
            for before_s, after_s in itertools.pairwise(times):
                if after_s - before_s > MAX_BACKOFF_S + MOST_S or not self._is_reasonable(
                    name, before_s, after_s, MOST_S
                ):
                    near = [r for r in board.requests if before_s - 30 < r.at_s <= after_s]
                    found.append(
                        f"{name} was not polled for {after_s - before_s:.1f} s, at {self._at(before_s)}; "
                        f"it failed, or was said to, {self._ago(name)}, of {near}"
                    )
        return found

    def overlaps(self) -> list[str]:
        """Requests to one board at once. One that a board never answered is over for who sent it, and so is
        one whose client left before: if it had waited for its time-out, or nearly, as the board saw it."""
        found = []
        for board, name in zip(self.fleet, self.names, strict=True):
            until_s, last = 0.0, None
            asked_s: dict[
                int, float
            ] = {}  # by connection, of a request that was refused without a signature
            for request in board.requests:
                if request.method == "POST" and not request.fence:
                    continue  # somebody in the house, who asks nobody
                if request.at_s < until_s:
                    near = [r for r in board.requests if abs(r.at_s - request.at_s) < 3]
                    found.append(
                        f"{name}: {request} during {last}, at {self._at(request.at_s)}, of {near}"
                    )
                began_s = asked_s.pop(request.connection, self._came_s(request))
                if request.status == 401:
                    asked_s[request.connection] = began_s
                if request.fault is None and request.answered_s is not None:
                    until_s, last = request.at_s + request.answered_s, request
                    if request.left_s is not None and request.left_s - began_s > MOST_WAIT_S:
                        until_s = request.left_s
        return found

    def wrong_pins(self) -> list[str]:
        """Pins that were for longer what they should not be than it takes to poll a board, and no reason is
        known."""
        found = []
        for number, (board, name) in enumerate(zip(self.fleet, self.names, strict=True)):
            right = self.level_of(number)
            level, since_s = right, self.began_s
            changes = [c for c in board.changes if c.pin == PIN and c.at_s >= self.began_s]
            for at_s, now in [(c.at_s, c.level) for c in changes] + [(self.ended_s, level)]:
                if level != right and not self._is_reasonable(name, since_s, at_s, MOST_S):
                    found.append(
                        f"{name} was {level} for {at_s - since_s:.1f} s, at {self._at(since_s)}"
                    )
                level, since_s = now, at_s
        return found

    def _ago(self, name: str) -> list[tuple[float, float]]:
        """The board's reasons, from when to when, in seconds of the run."""
        return [
            (round(from_s - self.began_s, 1), round(to_s - self.began_s, 1))
            for from_s, to_s in self.reasons_of[name] + self._said_of(name)
        ]

    def _at(self, at_s: float) -> str:
        near = [f"{t - self.began_s:.1f} {what}" for t, what in self.done if -9 < t - at_s < 9]
        return f"{at_s - self.began_s:.1f} s: {'; '.join(near)}"


def _status_of(board: LightHandle) -> bytes:
    return requests.get(f"http://{board.address}/", timeout=5).content


def _polls(board: LightHandle) -> list[LightRequest]:
    return [r for r in board.requests if (r.method, r.path.split("?")[0]) == ("GET", "/")]


def _is_well(poll: LightRequest) -> bool:
    """Whether nothing was done to the answer, and somebody waited for it."""
    return poll.fault is None and poll.left_s is None


def _seconds(text: Any) -> float:
    return datetime.fromisoformat(text).timestamp()
