"""Laws of `espnet.store.credentials` and `espnet.store.sealing`: what opens boards, and how it is kept."""

import base64
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from board_wire import eventually, status_body
from conftest import RedisProcess

from espnet.credential import Credential, Password, new_password
from espnet.errors import CredentialClosed, StoreUnavailable
from espnet.model import Device, Reading
from espnet.store import Gathering, OneByOne, Store
from espnet.store.credentials import MAX_PASSWORDS
from espnet.store.sealing import CannotOpen, Seals, Secrets

NOW = 1_750_000_000.0
KEY = "espnet:credentials"
ONE, TWO, THREE = (base64.urlsafe_b64encode(bytes([n]) * 32).decode() for n in (1, 2, 3))
NewStore = Callable[..., Store]


def a_password(number: int) -> Password:
    return Password(f"password-number-{number}")


def kept(store: Store, board_id: str = "b1") -> list[str]:
    """What is kept for a board, the likeliest first."""
    credential = store.credential(board_id)
    assert not credential.problem
    return [password.reveal()[len("password-number-") :] for password in credential.passwords]


def register(store: Store, board_id: str = "b1") -> Device:
    device = Device(id=board_id, name=f"name-{board_id}", address=board_id, registered_at=NOW)
    status = msgspec.Raw(status_body(board_id))
    reading = Reading(at=NOW, poll_s=0.0, interval_s=10.0, collector="here", status=status)
    return store.add(device, reading, first_due=NOW, has_password=True)


def number_of(store: Store, board_id: str = "b1") -> int:
    return store.device(f"name-{board_id}").credential


# --- order and bounds -------------------------------------------------------------------------------


def test_a_new_password_is_tried_after_the_one_in_force_until_it_has_proved_itself(
    store: Store,
) -> None:
    """Adding puts it second, preferring puts it first; the others stay behind, each once."""
    for number in (1, 2, 3):
        store.add_password("b1", a_password(number))
    assert kept(store) == ["1", "3", "2"]
    store.prefer_password("b1", a_password(3))
    assert kept(store) == ["3", "1", "2"]
    store.add_password("b1", a_password(2))
    assert kept(store) == ["3", "2", "1"]
    store.prefer_password("b1", a_password(9))
    assert kept(store) == ["9", "3", "2", "1"]


def test_what_is_kept_is_bounded_and_the_one_in_force_is_not_pushed_out(store: Store) -> None:
    """However many changes come to nothing, the password that the board has stays the first."""
    for number in range(3 * MAX_PASSWORDS):
        store.add_password("b1", a_password(number))
        assert kept(store)[0] == "0"
        assert len(kept(store)) <= MAX_PASSWORDS
        assert number < 2 or kept(store)[1] == str(number)
    assert len(kept(store)) == MAX_PASSWORDS


def test_boards_do_not_know_each_other_s(store: Store) -> None:
    """Each has its own, and who has none is left out."""
    store.add_password("b1", a_password(1))
    store.add_password("b2", a_password(2))
    found = store.credentials(["b2", "b3", "b1"])
    assert {board: one.passwords for board, one in found.items()} == {
        "b1": (a_password(1),),
        "b2": (a_password(2),),
    }
    assert store.credential("b3") == Credential()
    assert store.credentials([]) == {}
    assert set(store.all_credentials()) == {"b1", "b2"}


def test_passwords_outlive_the_registration_of_their_board(store: Store) -> None:
    """Nobody could control it again, else; registered anew, or replaced, they are found."""
    register(store)
    store.add_password("b1", a_password(1))
    store.remove("name-b1")
    assert kept(store) == ["1"]
    register(store)
    assert kept(store) == ["1"]


def test_a_record_s_number_changes_exactly_when_its_passwords_change(store: Store) -> None:
    """So a collector that holds a record knows whether what it has is still right."""
    register(store)
    register(store, "b2")
    other = number_of(store, "b2")
    seen = [number_of(store)]

    def changed() -> bool:
        seen.append(number_of(store))
        return seen[-1] != seen[-2]

    store.add_password("b1", a_password(1))
    assert changed()
    store.add_password("b1", a_password(2))
    assert changed()
    store.prefer_password("b1", a_password(2))
    assert changed()
    store.prefer_password("b1", a_password(2))
    assert not changed()
    store.add_password("b1", a_password(1))
    assert not changed()
    store.credential("b1")
    store.reseal("b1")
    assert not changed()
    assert 0 not in seen
    assert len(set(seen)) == 4
    assert number_of(store, "b2") == other


def test_a_record_without_a_number_gets_one_as_soon_as_its_password_is_proved(store: Store) -> None:
    """A board that was registered as somebody else's is ours when its kept password opens it."""
    device = register(store)
    store.add_password("b1", a_password(1))
    store.change(device.name, lambda old: msgspec.structs.replace(old, credential=0), now=NOW)
    store.prefer_password("b1", a_password(1))
    assert number_of(store) != 0


def test_adding_at_once_loses_nothing(new_store: NewStore) -> None:
    """Whoever changes a board's passwords at the same time as others changes what those left."""
    stores = [new_store() for _ in range(4)]
    register(stores[0])
    start = threading.Barrier(4)

    def add(store: Store, number: int) -> None:
        start.wait()
        store.add_password("b1", a_password(number))
        store.add_password("b1", a_password(number + 4))

    threads = [
        threading.Thread(target=add, args=(store, number)) for number, store in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(kept(stores[0])) == sorted(map(str, range(8)))


def test_a_seal_renewed_while_a_password_is_added_keeps_both(new_store: NewStore) -> None:
    """`espcli seal` and a change of the password at the same time: neither undoes the other."""
    plain, sealing = new_store(), new_store(secret_keys=(ONE,))
    plain.add_password("b1", a_password(0))
    start = threading.Barrier(2)

    def reseal() -> None:
        start.wait()
        for _ in range(20):
            sealing.reseal("b1")

    thread = threading.Thread(target=reseal)
    thread.start()
    adding = new_store(secret_keys=(ONE,))
    start.wait()
    for number in range(1, 8):
        adding.add_password("b1", a_password(number))
    thread.join()
    assert sorted(kept(adding)) == sorted(map(str, range(8)))


def test_no_password_is_kept_that_redis_could_still_lose(own_redis: RedisProcess) -> None:
    """When adding returns, a power cut takes nothing: what a board is then told, Redis has."""
    with redis.Redis.from_url(own_redis.url) as raw:
        raw.config_set("appendfsync", "everysec")
    store = Store(own_redis.url)
    for number in range(3):
        store.add_password("b1", a_password(number))
    store.close()
    own_redis.kill()
    own_redis.start()
    store = Store(own_redis.url)
    assert kept(store) == ["0", "2", "1"]
    store.close()


# --- seals ------------------------------------------------------------------------------------------


def test_sealed_passwords_open_with_their_key_and_no_other(
    new_store: NewStore, raw: redis.Redis
) -> None:
    """What lies in Redis says nothing; another key, or none, is a problem and not an error."""
    new_store(secret_keys=(ONE,)).add_password("b1", a_password(1))
    lies: Any = raw.hget(KEY, "b1")
    assert lies.startswith(b"fernet:")
    assert b"number" not in lies
    for part in lies.split(b":")[1:]:
        assert b"number" not in base64.urlsafe_b64decode(part)
    assert kept(new_store(secret_keys=(ONE,))) == ["1"]
    assert kept(new_store(secret_keys=(TWO, ONE))) == ["1"]
    assert "another ESPNET_SECRET_KEY" in new_store(secret_keys=(TWO,)).credential("b1").problem
    assert "is not set here" in new_store().credential("b1").problem


def test_what_cannot_be_opened_is_never_written_over(new_store: NewStore, raw: redis.Redis) -> None:
    """Neither by another key, nor without one, nor where it is damaged or another board's."""
    right = new_store(secret_keys=(ONE,))
    register(right)
    right.add_password("b1", a_password(1))
    sealed = raw.hgetall(KEY)
    right.add_password("b2", a_password(2))
    number = number_of(right)

    def is_refused(store: Store) -> None:
        before = raw.hgetall(KEY)
        for change in (store.add_password, store.prefer_password):
            with pytest.raises(CredentialClosed, match="b1"):
                change("b1", a_password(3))
        assert store.reseal("b1") is False
        assert raw.hgetall(KEY) == before
        assert number_of(store) == number

    is_refused(new_store(secret_keys=(TWO,)))
    is_refused(new_store())
    for lies in (b"fernet:", b"fernet:gAAAAA", b"{", b"\xff", b"", b'{"id": "b1"}', b"[]", b"null"):
        raw.hset(KEY, "b1", lies)
        is_refused(right)
    raw.hset(KEY, "b1", raw.hget(KEY, "b2"))
    assert right.credential("b1").problem == "is that of another board"
    is_refused(right)
    raw.hset(KEY, mapping=sealed)
    assert kept(right) == ["1"]


def test_a_plain_one_of_another_board_is_not_taken_either(store: Store, raw: redis.Redis) -> None:
    """Whose it is stands inside, with or without a seal."""
    store.add_password("b1", a_password(1))
    raw.hset(KEY, "b2", raw.hget(KEY, "b1"))
    assert store.credential("b2").problem == "is that of another board"


def test_without_the_key_nothing_plain_gets_among_what_is_sealed(
    new_store: NewStore, raw: redis.Redis
) -> None:
    """A shell that forgot ESPNET_SECRET_KEY does not put the next board's password there in clear."""
    new_store(secret_keys=(ONE,)).add_password("b1", a_password(1))
    with pytest.raises(CredentialClosed, match="only one that is not sealed"):
        new_store().add_password("b2", a_password(2))
    assert raw.hkeys(KEY) == [b"b1"]


def test_who_saw_nothing_sealed_looks_again(new_store: NewStore, raw: redis.Redis) -> None:
    """A fleet that is sealed meanwhile gets nothing plain from a process that has been there before."""
    plain, sealing = new_store(), new_store(secret_keys=(ONE,))
    for number in (1, 2, 3):
        plain.add_password(f"b{number}", a_password(number))
    for number in (1, 2, 3):
        assert sealing.reseal(f"b{number}")
    with pytest.raises(CredentialClosed, match="only one that is not sealed"):
        plain.add_password("b4", a_password(4))
    assert len(raw.hkeys(KEY)) == 3


def test_what_lies_there_plain_may_be_proved_among_what_is_sealed(
    new_store: NewStore, raw: redis.Redis
) -> None:
    """A board was told its password while others were sealed: it has it, and nothing more gets in plain."""
    plain = new_store()
    plain.add_password("b1", a_password(1))
    new_store(secret_keys=(ONE,)).add_password("b2", a_password(2))
    plain.prefer_password("b1", a_password(1))
    assert plain.credential("b1").is_proved
    assert kept(plain) == ["1"]
    for change in (plain.add_password, plain.prefer_password):
        with pytest.raises(CredentialClosed, match="only one that is not sealed"):
            change("b1", a_password(3))
    assert kept(plain) == ["1"]


# --- several at once --------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [(), (ONE,)], ids=["plain", "sealed"])
def test_passwords_of_many_boards_are_added_as_one_is(
    new_store: NewStore, raw: redis.Redis, keys: tuple[str, ...]
) -> None:
    """Each comes after the one in force, records change, and all others are looked at once, or not at all
    where there is a key."""
    store = new_store(secret_keys=keys)
    register(store)
    store.add_password("b1", a_password(0))
    number = number_of(store)
    raw.config_resetstat()
    assert store.add_passwords({f"b{n}": a_password(n) for n in range(1, 21)}) == {}
    looks: Any = raw.info("commandstats").get("cmdstat_hvals", {"calls": 0})
    assert looks["calls"] == (0 if keys else 1)
    assert kept(store) == ["0", "1"]
    assert [kept(store, f"b{n}") for n in range(2, 21)] == [[str(n)] for n in range(2, 21)]
    assert number_of(store) != number


def test_what_one_board_is_refused_costs_no_other_one(
    new_store: NewStore, raw: redis.Redis
) -> None:
    """What cannot be opened is left as it is; without the key none gets in, not even one."""
    store = new_store(secret_keys=(ONE,))
    store.add_password("b1", a_password(1))
    raw.hset(KEY, "b2", "{")
    refused = store.add_passwords({f"b{n}": a_password(5) for n in (1, 2, 3)})
    assert {board: str(error) for board, error in refused.items()} == {
        "b2": str(CredentialClosed("b2", "is damaged"))
    }
    assert (kept(store, "b1"), raw.hget(KEY, "b2"), kept(store, "b3")) == (["1", "5"], b"{", ["5"])
    before = raw.hgetall(KEY)
    assert set(new_store().add_passwords({"b4": a_password(4), "b5": a_password(5)})) == {
        "b4",
        "b5",
    }
    assert raw.hgetall(KEY) == before


def gather(stores: list[Store], password_of: Callable[[int], Password]) -> dict[int, str]:
    """Every store adds a password for a board of its own, all at once; what some were told instead."""
    gathering, told = Gathering(), {}
    start = threading.Barrier(len(stores))

    def add(number: int, store: Store) -> None:
        store.gathering = gathering
        start.wait()
        try:
            store.add_password(f"b{number}", password_of(number))
        except (CredentialClosed, StoreUnavailable) as error:
            told[number] = str(error)

    threads = [threading.Thread(target=add, args=each) for each in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def test_threads_that_gather_get_each_its_own_answer(new_store: NewStore, raw: redis.Redis) -> None:
    """Every password is kept when its thread goes on, and a refusal is that of its board alone."""
    raw.hset(KEY, "b3", "{")
    stores = [new_store() for _ in range(12)]
    assert gather(stores, a_password) == {3: str(CredentialClosed("b3", "is damaged"))}
    boards = [n for n in range(12) if n != 3]
    assert [kept(stores[0], f"b{n}") for n in boards] == [[str(n)] for n in boards]


def test_threads_that_gather_all_hear_that_redis_is_gone(own_redis: RedisProcess) -> None:
    """Nobody tells a board a password that is not kept, and nobody waits for ever."""
    stores = [Store(own_redis.url) for _ in range(8)]
    own_redis.kill()
    told = gather(stores, a_password)
    assert sorted(told) == list(range(8))
    assert all(text.startswith("Redis at ") for text in told.values())
    for store in stores:
        store.close()


def test_threads_in_a_row_do_not_wait_for_a_silent_redis_one_after_another() -> None:
    """The first one's time-out is that of all; another error is its own."""
    turn, done = OneByOne(), []
    with pytest.raises(redis.ResponseError), turn:
        raise redis.ResponseError("of this one")
    with turn:
        done.append("goes on")
    with pytest.raises(redis.TimeoutError), turn:
        raise redis.TimeoutError("silent")
    for _ in range(3):
        with pytest.raises(redis.TimeoutError, match="silent"), turn:
            done.append("asks again")
    assert done == ["goes on"]


def test_a_key_seals_what_was_plain_as_soon_as_it_changes(new_store: NewStore) -> None:
    """Or when it is asked to; until then it is known not to be current."""
    new_store().add_password("b1", a_password(1))
    sealing = new_store(secret_keys=(ONE,))
    assert not sealing.credential("b1").is_current
    assert kept(sealing) == ["1"]
    sealing.add_password("b1", a_password(2))
    assert sealing.credential("b1").is_current
    assert kept(sealing) == ["1", "2"]


def test_keys_are_changed_without_a_gap(new_store: NewStore) -> None:
    """NEW,OLD opens both and seals with NEW; when all is sealed anew, OLD is not needed any more."""
    old = new_store(secret_keys=(ONE,))
    for board in ("b1", "b2"):
        old.add_password(board, a_password(1))
    both, new = new_store(secret_keys=(TWO, ONE)), new_store(secret_keys=(TWO,))
    assert not both.credential("b1").is_current
    assert both.reseal("b1")
    assert both.credential("b1").is_current
    assert kept(new, "b1") == ["1"]
    assert new.credential("b2").problem
    assert old.credential("b1").problem
    assert both.reseal("b2")
    assert kept(new, "b2") == ["1"]
    assert both.reseal("b3") is False


def test_a_seal_is_made_anew_each_time_and_bound_to_its_board() -> None:
    """Two seals of one password are not alike, and none opens for another board or when a bit fell over."""
    seals = Seals((ONE,))
    secrets = Secrets("b1", ["secret"], is_proved=True)
    sealed = seals.seal(secrets)
    assert sealed != seals.seal(secrets)
    assert seals.open("b1", sealed) == secrets
    for board in ("b2", "", "B1", "b1 "):
        with pytest.raises(CannotOpen):
            seals.open(board, sealed)
    for at in range(7, len(sealed) - 2, 11):
        spoilt = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(CannotOpen):
            seals.open("b1", spoilt)


# --- when Redis does not take it ------------------------------------------------------------------


def shown(error: BaseException) -> str:
    return f"{error} {error!r} {error.args!r}"


@pytest.mark.parametrize("keys", [(), (ONE,)], ids=["plain", "sealed"])
def test_a_redis_that_refuses_a_password_does_not_say_which(
    own_redis: RedisProcess, keys: tuple[str, ...]
) -> None:
    """A full memory, a replica that only reads, too few replicas: one sentence about Redis, no password in
    it, and what was kept before stays."""
    store = Store(own_redis.url, secret_keys=keys)
    register(store)
    store.add_password("b1", a_password(1))
    raw = redis.Redis.from_url(own_redis.url)

    def is_refused() -> None:
        password = new_password()
        for change in (store.add_password, store.prefer_password):
            with pytest.raises(StoreUnavailable, match="Redis at ") as caught:
                change("b1", password)
            said = shown(caught.value)
            assert not [part for part in password.reveal().split("-") if part in said]
            assert "fernet" not in said
            assert "HSET" not in said
        assert kept(store) == ["1"]

    before: Any = raw.config_get("maxmemory")
    raw.config_set("maxmemory", 1)
    is_refused()
    raw.config_set("maxmemory", before["maxmemory"])
    raw.config_set("min-replicas-to-write", 1)
    is_refused()
    raw.config_set("min-replicas-to-write", 0)
    raw.replicaof("127.0.0.1", 1)  # type: ignore[no-untyped-call]
    is_refused()
    raw.replicaof("NO", "ONE")  # type: ignore[no-untyped-call]
    store.add_password("b1", a_password(2))
    assert kept(store) == ["1", "2"]
    raw.close()
    store.close()


def test_a_replica_has_a_password_before_a_board_is_told(own_redis: RedisProcess) -> None:
    """So that one that takes over can still control the board."""
    folder = Path(tempfile.mkdtemp(prefix="espnet-", dir="/tmp"))
    second = RedisProcess(folder, durable=False)
    second.start()
    with redis.Redis.from_url(own_redis.url) as first, redis.Redis.from_url(second.url) as raw:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        first.config_set("port", port)
        first.config_set("repl-diskless-sync-delay", 0)
        raw.replicaof("127.0.0.1", port)  # type: ignore[no-untyped-call]
        eventually(lambda: raw.info("replication")["master_link_status"] == "up")
        store, heir = Store(own_redis.url), Store(second.url)
        for number in range(5):
            store.add_password("b1", a_password(number))
            assert heir.credential("b1").passwords[bool(number)] == a_password(number)
        store.close()
        heir.close()
    second.stop()
    shutil.rmtree(folder)


@pytest.mark.parametrize("how", ["always", "everysec", "no"])
def test_however_redis_syncs_a_password_is_kept_at_once(own_redis: RedisProcess, how: str) -> None:
    """Also where it leaves that to the system: nobody waits for what will not come."""
    with redis.Redis.from_url(own_redis.url) as raw:
        raw.config_set("appendfsync", how)
    store = Store(own_redis.url)
    store.add_password("b1", a_password(1))
    assert kept(store) == ["1"]
    store.close()


def test_a_redis_that_cannot_say_what_is_on_disk_takes_passwords_too(
    redis_url: str, raw: redis.Redis
) -> None:
    """One before 7.2, one without an append-only file, one whose user may ask little."""
    raw.execute_command(
        "ACL", "SETUSER", "old", "on", "nopass", "~*", "+@all", "-waitaof", "-config"
    )  # type: ignore[no-untyped-call]
    password = new_password()
    for url in (redis_url, redis_url.replace("unix://", "unix://old:x@")):
        store = Store(url)
        store.add_password("b1", password)
        assert store.credential("b1").passwords == (password,)
        store.close()
    raw.execute_command("ACL", "DELUSER", "old")  # type: ignore[no-untyped-call]
