"""Laws of the schedule that collectors share: who polls what, and what happens when one comes or goes."""

import random
from collections import Counter
from collections.abc import Callable
from contextlib import closing

import pytest
import redis
from board_wire import eventually
from conftest import RedisProcess
from test_store import NOW, board, poll, reading

from espnet.errors import StoreUnavailable
from espnet.store import PRESENT_S, Store

EVERY_S = 10.0
LATE_S = 0.4 * PRESENT_S
SHARDED = "collector/barn@host:1:a"


def register(store: Store, count: int, **more: object) -> None:
    for number in range(count):
        store.add(board(number, **more), reading(), first_due=NOW + number * EVERY_S / count)


def beat(store: Store, who: str, now: float, *, most: int = 256) -> list[str]:
    """Claims and visits what is due; the ids."""
    claims = store.claim(now, most, who, ttl_s=60)
    store.commit([poll(claim.grant, next_due=claim.due + EVERY_S) for claim in claims])
    return [claim.device.id for claim in claims]


def work(store: Store, whom: list[str], since: float, lasts_s: float) -> dict[str, Counter[str]]:
    """Collectors that beat in turn, once a second; how often each has polled each device."""
    polled: dict[str, Counter[str]] = {who: Counter() for who in whom}
    for second in range(int(lasts_s)):
        for number, who in enumerate(whom):
            polled[who].update(beat(store, who, since + second + number / 10))
    return polled


def owners(store: Store) -> Counter[str]:
    return Counter(turn.collector for turn in store.schedule().values())


def test_the_first_collector_has_all(store: Store) -> None:
    """One alone polls every device, each once an interval."""
    register(store, 30)
    work(store, ["a"], NOW + EVERY_S, EVERY_S)
    polled = work(store, ["a"], NOW + 2 * EVERY_S, 10 * EVERY_S)["a"]
    assert len(polled) == 30
    assert set(polled.values()) == {10}


@pytest.mark.parametrize(("devices", "collectors"), [(30, 2), (31, 3), (2, 3), (1, 2), (300, 7)])
def test_shares_are_equal_but_for_one_device(store: Store, devices: int, collectors: int) -> None:
    """Whoever came first. Each device is polled by exactly one, each once an interval."""
    register(store, devices)
    names = [f"c{number}" for number in range(collectors)]
    beat(store, "c0", NOW + EVERY_S)
    work(store, names, NOW + EVERY_S, 2 * EVERY_S)
    found = owners(store)
    assert sum(found.values()) == devices
    assert set(found.values()) <= {devices // collectors, devices // collectors + 1}
    polled = work(store, names, NOW + 3 * EVERY_S, 5 * EVERY_S)
    total: Counter[str] = sum(polled.values(), Counter())
    assert len(total) == devices
    assert set(total.values()) == {5}
    for device in total:
        assert sum(device in mine for mine in polled.values()) == 1


def test_who_joins_is_given_quick_devices_and_slow_ones(store: Store) -> None:
    """Half of the devices are half of the work, also where some are polled far more often."""
    luck = random.Random(7)
    for number in range(400):
        every_s = 1 if number % 10 == 0 else 3600
        store.add(
            board(number, interval_s=every_s),
            reading(),
            first_due=NOW + PRESENT_S + luck.random() * every_s,
        )
    store.claim(NOW, 0, "old", ttl_s=9)
    store.claim(NOW, 0, "new", ttl_s=9)
    store.claim(NOW, 0, "old", ttl_s=9)
    store.claim(NOW, 0, "new", ttl_s=9)
    quick = {device.id for device in store.devices() if device.interval_s == 1}
    shares = Counter(t.collector for key, t in store.schedule().items() if key in quick)
    assert shares == {"old": 20, "new": 20}


def test_a_device_that_is_being_visited_or_soon_will_be_does_not_change_hands(store: Store) -> None:
    """What is given back has a connection to be closed first."""
    register(store, 4)
    visited = store.claim(NOW + 4, 2, "old", ttl_s=60)
    store.claim(NOW + 4, 0, "new", ttl_s=9)
    store.claim(NOW + 4, 0, "old", ttl_s=9)
    assert store.given == ("id3",)  # two were wanted, and one of them is being visited
    assert {key: turn.collector for key, turn in store.schedule().items()} == {
        "id0": "old",
        "id1": "old",
        "id2": "old",
        "id3": "",
    }
    store.commit([poll(claim.grant, next_due=NOW + 14) for claim in visited])
    store.claim(NOW + 4.1, 0, "old", ttl_s=9)
    assert len(store.given or ()) == 1
    store.claim(NOW + 4.1, 0, "new", ttl_s=9)
    assert owners(store) == {"old": 2, "new": 2}


def test_what_is_due_in_a_moment_is_not_given_back(store: Store) -> None:
    """Whoever took it might connect to it before the connection here is closed."""
    for number in range(2):
        store.add(board(number), reading(), first_due=NOW + 5.05)
    for who in ("old", "new", "old"):
        store.claim(NOW + 5, 0, who, ttl_s=9)
    assert store.given == ()
    assert owners(store) == {"old": 2}
    store.claim(NOW + 4.9, 0, "old", ttl_s=9)
    assert len(store.given) == 1


def test_who_signs_off_gives_back_at_once(store: Store) -> None:
    """An orderly stop costs nobody a poll."""
    register(store, 10)
    work(store, ["a", "b"], NOW + EVERY_S, 2 * EVERY_S)
    store.sign_off("a")
    assert owners(store) == {"b": 5, "": 5}
    assert store.collectors(NOW + 3 * EVERY_S, 60) == ["b"]
    polled = work(store, ["b"], NOW + 3 * EVERY_S, EVERY_S)["b"]
    assert set(polled.values()) == {1}
    assert len(polled) == 10


def test_what_a_dead_one_had_is_shared_when_it_is_thought_dead(store: Store) -> None:
    """Within ``present_s`` of its last claim nobody touches it, and then everybody takes his part."""
    register(store, 30)
    work(store, ["a", "b", "c"], NOW + EVERY_S, 2 * EVERY_S)
    last = NOW + 3 * EVERY_S - 1
    for who in ("b", "c"):
        store.claim(last + PRESENT_S - 0.1, 0, who, ttl_s=9)
    assert owners(store)["a"] == 10
    work(store, ["b", "c"], last + PRESENT_S + 0.1, 3)
    assert owners(store) == {"b": 15, "c": 15}


def test_what_is_late_is_taken_by_whoever_looks(store: Store) -> None:
    """Whether its collector stands still, seldom looks or has too much to do, and also what should be
    somebody else's share. Who loses devices so is told, once."""
    register(store, 10)
    work(store, ["a", "b"], NOW + EVERY_S, 2 * EVERY_S)
    now = NOW + 3 * EVERY_S - 1
    mine = [key for key, turn in store.schedule().items() if turn.collector == "a"]
    store.wake(mine[:2], now)
    beat(store, "b", now + LATE_S - 0.1)
    assert owners(store) == {"a": 5, "b": 5}
    assert set(mine[:2]) <= set(beat(store, "b", now + LATE_S + 0.1))
    assert owners(store) == {"a": 3, "b": 7}
    store.claim(now + LATE_S + 0.2, 0, "a", ttl_s=9)
    assert set(store.given or ()) == set(mine[:2])
    store.claim(now + LATE_S + 0.3, 0, "a", ttl_s=9)
    assert store.given == ()
    # In the pool, for somebody whose share it is and who does not come for it.
    store.sign_off("b")
    store.claim(now + LATE_S + 0.4, 0, "seldom", ttl_s=9, present_s=300)
    assert owners(store)["seldom"] == 5
    work(store, ["a"], now + 2 * LATE_S, 2 * EVERY_S)
    polled = work(store, ["a"], now + 2 * LATE_S + 2 * EVERY_S, 5 * EVERY_S)["a"]
    assert len(polled) == 10


def test_who_comes_back_is_told_that_it_was_thought_dead(store: Store) -> None:
    """It cannot know which of its devices are others' now: none has a connection of its any more."""
    register(store, 10)
    beat(store, "a", NOW + EVERY_S)
    assert store.given is None  # the first time, too
    beat(store, "a", NOW + EVERY_S + PRESENT_S + 1)
    assert store.given == ()  # late, and nobody has noticed
    beat(store, "b", NOW + EVERY_S + 3 * PRESENT_S)
    beat(store, "a", NOW + EVERY_S + 3 * PRESENT_S + 1)
    assert store.given is None


def test_a_commit_finds_its_device_wherever_that_is_now(store: Store) -> None:
    """Thought dead in the middle of a visit, but with the lock still its own: the visit counts."""
    register(store, 1)
    (claim,) = store.claim(NOW + EVERY_S, 9, "a", ttl_s=60)
    store.claim(NOW + EVERY_S + PRESENT_S + 1, 9, "b", ttl_s=60)
    assert owners(store) == {"b": 1}
    assert store.commit([poll(claim.grant, next_due=NOW + 33)]) == set()
    assert store.schedule()["id0"] == (NOW + 33, "b")
    with store.hold(claim.device, "a person", ttl_s=9, wait_s=0) as grant:
        store.commit([poll(grant, next_due=NOW + 44)])
    assert store.schedule()["id0"] == (NOW + 44, "b")


def test_what_is_wanted_now_is_due_now_whoever_has_it(store: Store) -> None:
    """New jobs, another interval, another address, another device's news: no queue is out of reach."""
    register(store, 6)
    work(store, ["a", "b"], NOW + EVERY_S, 2 * EVERY_S)
    now = NOW + 3 * EVERY_S - 1
    store.wake([f"id{number}" for number in range(6)], now)
    assert {turn.at for turn in store.schedule().values()} == {now}
    assert sorted(beat(store, "a", now) + beat(store, "b", now)) == [f"id{n}" for n in range(6)]
    store.wake(["nobody"], now)
    assert len(store.schedule()) == 6


def test_what_is_wanted_in_the_middle_of_a_visit_is_due_when_that_ends(
    store: Store, raw: redis.Redis
) -> None:
    """A visit that began before somebody gave the board a job knows nothing of it; the next one may be in an
    hour. Once is enough, and nothing is left of it."""
    register(store, 2)
    store.claim(NOW + EVERY_S, 0, "a", ttl_s=9)
    (claim, other) = store.claim(NOW + EVERY_S, 9, "a", ttl_s=9)
    store.wake([claim.device.id], NOW + 10.5)
    assert beat(store, "a", NOW + 11) == []
    store.commit([poll(c.grant, next_due=NOW + 3600) for c in (claim, other)])
    found = store.schedule()
    assert found[claim.device.id].at == NOW + 10.5
    assert found[other.device.id].at == NOW + 3600
    assert beat(store, "a", NOW + 12) == [claim.device.id]
    assert store.schedule()[claim.device.id].at > NOW + 12
    assert not raw.exists("espnet:hurried")


def test_who_is_registered_anew_is_in_one_queue(store: Store) -> None:
    """Also where a collector has it already."""
    register(store, 4)
    work(store, ["a", "b"], NOW + EVERY_S, EVERY_S)
    store.add(board(1), reading(), first_due=NOW + 99)
    assert len(store.schedule()) == sum(owners(store).values()) == 4
    assert store.schedule()["id1"] == (NOW + 99, "")


def test_a_shard_s_devices_are_polled_by_its_collectors_and_by_no_others(store: Store) -> None:
    """A collector in the barn reaches what is in the barn; shares are counted among its like."""
    register(store, 4)
    for number in range(4, 10):
        store.add(board(number, tags=("shard:barn",)), reading(), first_due=NOW)
    polled = work(store, ["a", SHARDED], NOW + EVERY_S, 2 * EVERY_S)
    assert len(polled["a"]) == 4
    assert len(polled[SHARDED]) == 6
    store.sign_off(SHARDED)
    assert work(store, ["a"], NOW + 4 * EVERY_S, 2 * EVERY_S)["a"].keys() == polled["a"].keys()
    assert owners(store) == {"a": 4, "": 6}


def test_a_device_that_gets_another_shard_changes_hands_at_once(store: Store) -> None:
    """Its collector finds it gone; the one of its new shard has it with its next claim."""
    register(store, 2)
    beat(store, "a", NOW + EVERY_S)
    tagged = board(1, tags=("floor:2", "shard:barn"))
    store.change("name1", lambda _: tagged, now=NOW + 11)
    assert store.schedule()["id1"] == (NOW + 11, "")
    assert beat(store, "a", NOW + 12) == ["id0"]
    assert beat(store, SHARDED, NOW + 12) == ["id1"]


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_each_device_is_in_one_queue_and_its_date_is_kept(
    new_store: Callable[..., Store], seed: int
) -> None:
    """Collectors come, go, die and return in any order; nothing is lost, nothing is there twice, and in
    the end shares are even."""
    luck = random.Random(seed)
    store = new_store()
    register(store, 50)
    here = {"a": NOW}
    now = NOW
    open_claims = []
    for _ in range(150):
        now += luck.random() * 2
        who = luck.choice(["a", "b", "c", "d", SHARDED])
        what = luck.random()
        if what < 0.7:
            here[who] = now
            claims = store.claim(now, luck.choice([0, 1, 5, 256]), who, ttl_s=60)
            if luck.random() < 0.8:
                store.commit([poll(c.grant, next_due=now + luck.random() * 20) for c in claims])
            else:
                open_claims += claims
        elif what < 0.8:
            store.sign_off(who)
        elif what < 0.9 and open_claims:
            store.commit([poll(open_claims.pop().grant, next_due=now + 5)])
        else:
            store.wake([f"id{luck.randrange(50)}"], now)
        rows = store._schedule(args=[store.prefix])
        assert len(rows) == len({row[0] for row in rows}) == 50
        assert all(float(row[1]) < now + 60.001 for row in rows)
    for claim in open_claims:
        store.commit([poll(claim.grant, next_due=now)])
    now += PRESENT_S + 61
    for turn in range(8):  # what is overdue is not given away before it was visited
        for who in ("a", "b", "c"):
            claims = store.claim(now + turn, 256, who, ttl_s=60)
            store.commit([poll(claim.grant, next_due=now + 20) for claim in claims])
    assert sorted(owners(store).values()) == [16, 17, 17]


def put_into_pool(store: Store, device_id: str, due: float) -> None:
    """As a version of EspNet does that knows no other place."""
    with redis.Redis.from_url(store.url) as client:
        client.zadd(store.prefix + "due", {device_id: due})


def test_what_an_older_version_puts_into_the_pool_is_in_one_queue(store: Store) -> None:
    """While collectors are upgraded one by one, the old ones' commits and commands put into the pool what the
    new ones have. Whoever takes it from there has it alone, and who had it is told."""
    register(store, 10)
    work(store, ["a", "b"], NOW + EVERY_S, 2 * EVERY_S)
    now = NOW + 3 * EVERY_S
    mine = [key for key, turn in store.schedule().items() if turn.collector == "a"]
    for device_id in mine[:4]:
        put_into_pool(store, device_id, now + 5)
    for key in mine[3:]:  # and what is late there
        put_into_pool(store, key, now - LATE_S - 0.1)
    polled = work(store, ["b", "a"], now, 2 * EVERY_S)
    assert {key for who in polled.values() for key in who} == {f"id{n}" for n in range(10)}
    rows = store._schedule(args=[store.prefix])
    assert len(rows) == len({row[0] for row in rows}) == 10
    assert owners(store) == {"a": 5, "b": 5}
    after = work(store, ["b", "a"], now + 2 * EVERY_S, 5 * EVERY_S)
    total: Counter[str] = sum(after.values(), Counter())
    assert set(total.values()) == {5}

    put_into_pool(store, mine[0], now - 99)
    owner = store.schedule()[mine[0]].collector or "a"
    other = "b" if owner == "a" else "a"
    later = now + 7 * EVERY_S
    store.claim(later, 256, other, ttl_s=9)
    store.claim(later, 0, owner, ttl_s=9)
    assert mine[0] in (store.given or ()) or owners(store)[owner] == 5


@pytest.mark.parametrize("how", ["retag", "register"])
def test_who_loses_a_device_to_a_person_is_told(store: Store, how: str) -> None:
    """Another shard's collector is about to connect to it, or anybody's: a board has few places."""
    register(store, 2)
    beat(store, "a", NOW + EVERY_S)
    if how == "retag":
        store.change("name1", lambda _: board(1, tags=("shard:barn",)), now=NOW + 11)
    else:
        store.add(board(1), reading(), first_due=NOW + 11)
    store.claim(NOW + 11, 0, "a", ttl_s=9)
    assert store.given == ("id1",)
    store.claim(NOW + 11, 0, "a", ttl_s=9)
    assert store.given == ()


def test_who_did_not_hear_what_it_lost_is_told_that_it_may_be_all(own_redis: RedisProcess) -> None:
    """Redis has done what a claim asked for, and its answer was lost: what was given back in it is another's.
    Who has no others beside it loses nothing, and keeps its connections."""
    with (
        closing(Store(own_redis.url)) as other,
        closing(Store(own_redis.url, timeout_s=2)) as store,  # it also beats
    ):
        register(other, 10)
        beat(store, "a", NOW + EVERY_S)
        beat(store, "a", NOW + EVERY_S + 0.1)

        def lose_an_answer(at: float) -> None:
            own_redis.pause()
            with pytest.raises(StoreUnavailable):
                store.claim(at, 0, "a", ttl_s=9)
            own_redis.resume()
            eventually(lambda: other.collectors_seen(at, 99)["a"] == pytest.approx(at))

        lose_an_answer(NOW + EVERY_S + 0.2)
        beat(store, "a", NOW + EVERY_S + 0.3)
        assert store.given == ()
        beat(other, "b", NOW + EVERY_S + 0.4)
        lose_an_answer(NOW + EVERY_S + 0.5)
        assert owners(other) == {"a": 5, "": 5}
        beat(store, "a", NOW + EVERY_S + 0.6)
        assert store.given is None
        beat(store, "a", NOW + EVERY_S + 0.7)
        assert store.given == ()


@pytest.mark.parametrize("away_s", [LATE_S + 1, 60.0])
def test_redis_comes_back_and_everybody_has_what_it_had(
    own_redis: RedisProcess, away_s: float
) -> None:
    """Nobody could look meanwhile: neither those who come back a moment later are dead, nor is what they
    have theirs who come back first. Whoever does not come back is dead all the same."""
    names = ["a", "b", "c"]
    stores = {who: Store(own_redis.url) for who in names}
    register(stores["a"], 30)
    for second in range(20):
        for number, who in enumerate(names):
            beat(stores[who], who, NOW + EVERY_S + second + number / 10)
    before = stores["a"].schedule()
    assert Counter(turn.collector for turn in before.values()) == {"a": 10, "b": 10, "c": 10}
    now = NOW + 3 * EVERY_S
    own_redis.kill()
    for who in names:
        with pytest.raises(StoreUnavailable):
            stores[who].claim(now + away_s - 1, 0, who, ttl_s=9)
    own_redis.start()
    for number, who in enumerate(names):
        beat(stores[who], who, now + away_s + number / 10)
        assert stores[who].given in ((), None)
    found = stores["a"].schedule()
    assert {key: turn.collector for key, turn in found.items()} == {
        key: turn.collector for key, turn in before.items()
    }
    for second in range(1, 9):
        for who in ("a", "b"):
            beat(stores[who], who, now + away_s + second)
    assert owners(stores["a"]) == {"a": 15, "b": 15}
    for store in stores.values():
        store.close()


def test_who_has_enough_of_its_own_to_do_takes_nobody_s_late_devices(store: Store) -> None:
    """Two that have too much to do would take it from each other for ever."""
    register(store, 20)
    work(store, ["a", "b"], NOW + EVERY_S, 2 * EVERY_S)
    now = NOW + 3 * EVERY_S - 1
    store.wake([f"id{number}" for number in range(20)], now)
    assert len(beat(store, "b", now + LATE_S + 0.1, most=10)) == 10
    assert owners(store) == {"a": 10, "b": 10}
    store.wake([f"id{number}" for number in range(20)], now)
    assert len(beat(store, "b", now + LATE_S + 0.2, most=13)) == 13
    assert owners(store) == {"a": 7, "b": 13}


@pytest.mark.parametrize("away_s", [2.0, 3.0, 100.0])
def test_a_device_does_not_go_to_and_fro_between_unequal_collectors(
    store: Store, away_s: float
) -> None:
    """One whose clock is seconds behind, or that seldom looks: what is late there is taken by the other one,
    and stays with it."""
    register(store, 20)
    seldom = away_s > PRESENT_S
    moved = 0
    for second in range(100):
        now = NOW + EVERY_S + second
        beat(store, "a", now)
        moved += len(store.given or ()) if second > 40 else 0
        if not seldom:
            beat(store, "b", now - away_s)
        elif second % away_s == 5:
            claims = store.claim(now, 256, "b", ttl_s=60, present_s=3 * away_s)
            store.commit([poll(claim.grant, next_due=claim.due + EVERY_S) for claim in claims])
    assert moved <= 2
    assert sum(owners(store).values()) == 20
