"""Uploaders that die, a Redis whose answers get lost, a far end that says anything: the books stay exact.

Everything is drawn from a seed. What may go wrong between two lines of the uploader goes wrong here: each
command to Redis may be lost before or after it was done, each request may end the process before or after
the far end had it, and another uploader may run in the middle of a request.
"""

import random
from collections import Counter
from typing import Any

import pytest
import redis
from far_end import FarEnd, Rig, Say

from espnet.errors import StoreUnavailable
from espnet.sinks import Verdict
from espnet.store import Store
from espnet.uploader import Uploader


class Died(BaseException):
    """The process is gone."""


class Fuse:
    """Ends something at a chosen one of the steps to come, and only once."""

    def __init__(self) -> None:
        self.steps: int | None = None
        self.when, self.how = "before", Died

    def burn(self, when: str) -> None:
        if self.steps is None or when != self.when:
            return
        self.steps -= 1
        if self.steps < 0:
            self.steps = None
            raise self.how("the fuse")


class Client(redis.Redis):
    """Redis, of which a command or an answer may get lost on the way."""

    fuse: Fuse

    def execute_command(self, *args: Any, **options: Any) -> Any:
        self.fuse.burn("before")
        answer = super().execute_command(*args, **options)
        self.fuse.burn("after")
        return answer


class AnyEnd(FarEnd):
    """A far end that says anything, and behind which others may run."""

    def __init__(self, rng: random.Random, name: str) -> None:
        super().__init__(name=name)
        self.rng, self.is_calm = rng, False
        self.fuse = Fuse()
        self.may_come_again: Counter[float] = Counter()
        self.meanwhile: Any = lambda: None
        self.before = lambda: self.fuse.burn("before")
        self.after = self._after

    def _after(self) -> None:
        self.meanwhile()
        self.fuse.burn("after")

    def _judge(self, values: list[float]) -> Any:
        if self.is_calm:
            self.answers.clear()
        elif not self.answers:
            rng = self.rng
            verdict = rng.choices(list(Verdict), (12, 1, 2, 1, 4))[0]
            is_unsure = verdict is Verdict.BUSY and rng.random() < 0.6
            taken = min(rng.choice((0, 0, 1, rng.randrange(len(values)))), len(values) - 1)
            has_arrived = is_unsure and rng.random() < 0.5
            self.answers.append(Say(verdict, taken, is_unsure, has_arrived))
            if has_arrived:
                self.may_come_again.update(values[taken:])
        return super()._judge(values)


class World:
    """Some sinks with some uploaders each, over one Redis."""

    def __init__(
        self, url: str, seed: int, *, is_deadly: bool, is_bounded: bool, is_slow: bool
    ) -> None:
        self.rng = random.Random(seed)
        options = {"max_samples": 60, "max_bytes": 12_000} if is_bounded else {}
        self.rig = Rig(url, **options)
        self.is_deadly, self.is_slow = is_deadly, is_slow
        self.ends = {name: AnyEnd(self.rng, name) for name in ("sink", "other")}
        for end in self.ends.values():
            end.window_s = 3600.0 if is_slow else None
        self.uploaders: list[tuple[Uploader, AnyEnd, Client]] = []
        self.values: list[float] = []
        self.depth = self.started = 0
        self.has_slept = False
        self.letters_given_up = 0
        self.new_uploader()
        self.rig.store.join("sink", 0)

    def new_uploader(self) -> None:
        end = self.ends["sink" if len(self.uploaders) < 2 else self.rng.choice(["sink", "other"])]
        client = Client.from_url(self.rig.url)
        client.fuse = Fuse()
        store = Store(self.rig.url, client=client, **self.rig.options)
        self.started += 1
        uploader = self.rig.uploader(
            end,
            f"u{self.started}",
            store=store,
            entries=self.rng.choice((1, 2, 5, 40)),
            luck=self.rng.random,
        )
        self.uploaders.append((uploader, end, client))

    def step(self) -> None:
        steps = [self.queue, self.drain, self.drain, self.drain, self.wait, self.age, self.leave]
        if self.rng.random() < 0.1:
            steps = [self.retry, self.give_up, self.forget]
        self.rng.choice(steps)()
        self.rig.audit()

    # --- what may happen ------------------------------------------------------------------------

    def queue(self) -> None:
        for _ in range(self.rng.randrange(1, 6)):
            values = self.rig.queue(1, points=self.rng.randrange(1, 8))
            self.values += values
            for end in self.ends.values():
                end.guilty.update(value for value in values if self.rng.random() < 0.03)

    def wait(self) -> None:
        seconds = self.rng.choice((1, 5, 30, 64, 200, *((1000, 4000) if self.is_slow else ())))
        self.rig.clock.advance(seconds)

    def age(self) -> None:
        for sink, _, _ in self.rig.store.ledger().sinks:
            self.rig.grow_old(61, sink)

    def leave(self) -> None:
        """An orderly stop, or a start."""
        if len(self.uploaders) < 4:
            self.new_uploader()
            return
        uploader, _, _ = self.uploaders.pop(self.rng.randrange(4))
        uploader.close()

    def forget(self) -> None:
        self.rig.store.forget_sink("other")
        self.ends["other"].got.clear()
        self.ends["other"].may_come_again.clear()
        self.ends["other"].unsure = 0

    def give_up(self) -> None:
        for letter in self.rig.store.letters()[:2]:
            self.letters_given_up += self.rig.store.bury("dropped", [letter.id])

    def retry(self) -> None:
        self._run(self._retry, is_forgetful=True)

    def _retry(self, uploader: Uploader, end: AnyEnd) -> None:
        uploader.retry(self._letters(end), self.rig.clock.now())

    def _letters(self, end: AnyEnd) -> list[Any]:
        letters = [letter for letter in self.rig.store.letters() if letter.sink == end.name]
        end.guilty -= {self.rng.choice(letters).letter.sample.value} if letters else set()
        return letters

    def drain(self) -> None:
        self._run(lambda uploader, _: uploader.drain(self.rig.clock.now()))

    def _run(self, act: Any, *, is_forgetful: bool = False) -> None:
        """One uploader acts, and perhaps dies of it; perhaps another one acts in the middle.

        What it delivered may come again if it died, if it slept for too long, or if it could not tell Redis
        and had no time to do so later, and for nothing else.
        """
        self.depth += 1
        uploader, end, client = mine = self.rng.choice(self.uploaders)
        end.meanwhile = lambda: self._meanwhile(mine)
        fuse = self.rng.choice((client.fuse, client.fuse, end.fuse))
        if self.is_deadly and self.rng.random() < 0.4:
            fuse.steps = self.rng.randrange(2 if fuse is end.fuse else 9)
            fuse.when = self.rng.choice(("before", "after"))
            is_lost = fuse is client.fuse and self.rng.random() < 0.5
            fuse.how = redis.ConnectionError if is_lost else Died
        before, is_silent = end.got.copy(), False
        self.has_slept = False
        try:
            act(uploader, end)
        except StoreUnavailable:
            is_silent = True
        except Died:
            is_silent = is_forgetful = True
            self.uploaders.remove(mine)
            if not self.uploaders:
                self.new_uploader()
        finally:
            end.meanwhile = lambda: None
            client.fuse.steps = end.fuse.steps = None
            self.depth -= 1
        is_forgetful |= self.rng.random() < 0.5
        if self.has_slept or (is_silent and is_forgetful):
            end.may_come_again.update(end.got - before)
        elif is_silent:
            self.rig.clock.advance(uploader.wait_s)
            uploader.drain(self.rig.clock.now())

    def _meanwhile(self, busy: Any) -> None:
        """In the middle of somebody's request: he sleeps for more than a minute, and others act."""
        if not self.is_deadly or self.depth > 1 or self.rng.random() < 0.9:
            return
        self.rig.audit()
        if self.rng.random() < 0.5:
            self.age()
            self.rig.clock.advance(61)
            self.has_slept = True
        self.uploaders.remove(busy)
        if not self.uploaders:
            self.new_uploader()
        has_slept = self.has_slept
        self.drain()
        self.has_slept |= has_slept
        self.uploaders.append(busy)
        self.rig.audit()

    def settle_down(self) -> None:
        """No more faults: everything is drained."""
        self.rig.clock.advance(900)
        for end in self.ends.values():
            end.is_calm = True
        self.rig.store.forget_sink("other")
        uploader = self.rig.uploader(self.ends["sink"], "last")
        self.rig.grow_old(61)
        for _ in range(200):
            self.rig.drain(uploader)
            if not self.rig.books().queued:
                return
        raise AssertionError(self.rig.books())


def live(url: str, seed: int, steps: int, **how: bool) -> tuple[World, AnyEnd]:
    world = World(url, seed, **how)
    for _ in range(steps):
        world.step()
    world.settle_down()
    end, books = world.ends["sink"], world.rig.books()
    assert books.is_balanced
    assert books.collected == len(world.values)
    said_yes = len(end.got)
    assert books.accepted <= said_yes, "nothing is acknowledged that did not arrive"
    missing = books.expired + books.dead + books.dropped
    assert len(world.values) - said_yes <= missing, "nothing is lost that is not in the books"
    twice = end.got.total() - said_yes
    assert twice <= books.repeated, "nothing is sent twice that is not in the books"
    again = {value for value, times in end.got.items() if times > 1 + end.may_come_again[value]}
    assert not again, "nothing comes twice without a reason"
    world.rig.close()
    return world, end


def seeds(count: int) -> list[Any]:
    """The first three, and in long runs the others."""
    return [*range(3), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(3, count))]


@pytest.mark.parametrize("seed", seeds(6))
def test_without_crashes_the_books_are_what_happened(redis_url: str, seed: int) -> None:
    """Any answers, and nobody dies: each sample is accepted once or a dead letter, `repeated` is what was
    unsure, exactly, and only that came twice."""
    world, end = live(redis_url, seed, 300, is_deadly=False, is_bounded=False, is_slow=False)
    books = world.rig.books()
    assert books.repeated == end.unsure
    assert books.expired == 0
    assert books.dropped <= world.letters_given_up
    assert books.accepted + books.dead + books.dropped == len(world.values)


@pytest.mark.parametrize("seed", seeds(10))
def test_with_crashes_nothing_is_lost(redis_url: str, seed: int) -> None:
    """Uploaders die between any two steps and answers of Redis get lost: all arrives that is no letter."""
    world, _ = live(redis_url, seed, 300, is_deadly=True, is_bounded=False, is_slow=False)
    books = world.rig.books()
    assert books.expired == 0
    assert books.accepted + books.dead + books.dropped == len(world.values)
    assert books.dropped <= world.letters_given_up


@pytest.mark.parametrize("seed", seeds(8))
def test_with_bounds_and_time_every_sample_has_its_place(redis_url: str, seed: int) -> None:
    """The same with bounds that are too small and hours that pass: what did not arrive is dropped or
    expired in the books."""
    live(redis_url, seed, 300, is_deadly=True, is_bounded=True, is_slow=True)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 400))
def test_the_same_for_long(redis_url: str, seed: int) -> None:
    """Hundreds of thousands of answers."""
    rng = random.Random(seed)
    how = {name: rng.random() < 0.5 for name in ("is_deadly", "is_bounded", "is_slow")}
    live(redis_url, seed, 400, **how)
