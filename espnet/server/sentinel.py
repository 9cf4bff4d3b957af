"""Redis behind sentinels: the URL that names them, the client that asks them, and what they say.

::

    redis+sentinel://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]…]/NAME[/DB][?OPTIONS]

NAME is what `sentinel monitor` calls the primary. USER and PASSWORD are those of Redis itself; sentinels that
want some have theirs in the options ``sentinel_username`` and ``sentinel_password``. All other options are
redis-py's, as in every URL. With ``rediss+sentinel://`` Redis and sentinels are spoken to with TLS.

Who connects asks the first sentinel that answers who is the primary, and the server itself whether it is
(`ROLE`): a sentinel may be behind the times, and then the next one is asked. Whoever meets an error says
`doubt`: then the next command asks anew, another sentinel first. So neither a primary that became a replica,
nor one that was cut off with its sentinel, is held on to. Nothing in here waits for a fail-over: the loops
come by again.
"""

import re
import socket
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlencode

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool

from espnet.server.urls import Watch

#: Where sentinels listen unless somebody says otherwise.
PORT = 26379
#: How long one sentinel may take to answer, in seconds: there are others.
ASK_S = 1.0
#: What Redis takes as a primary's name.
_NAME = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_HOST = re.compile(r"(?:\[([^\]]*)\]|([A-Za-z0-9._-]+))(?::(.*))?", re.ASCII)
#: Any: the library types neither.
_parse_url: Any = parse_url
_OWN_OPTIONS = ("sentinel_username", "sentinel_password")


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Named:
    """What a URL says. The options are keyword arguments of redis-py; they may hold passwords."""

    sentinels: tuple[Address, ...]
    name: str
    options: dict[str, Any] = field(repr=False)
    sentinel_options: dict[str, Any] = field(repr=False)


class _Refused(ValueError):
    """A URL that cannot be right; the message is a clause about it."""


# --- the URL --------------------------------------------------------------------------------------


def problem_with(url: str) -> str | None:
    """Why a URL with ``+sentinel`` cannot be one, as a clause that quotes none of it."""
    try:
        _parts(url)
    except _Refused as error:
        return str(error)
    return None


def parse(url: str) -> Named:
    """What a URL says that `problem_with` has nothing against; raises `ValueError` for wrong options."""
    credentials, sentinels, name, database, query = _parts(url)
    asked = parse_qs(query, keep_blank_values=True)
    own = {key.removeprefix("sentinel_"): asked.pop(key)[0] for key in _OWN_OPTIONS if key in asked}
    is_tls = url.startswith("rediss")
    # The same options as in every URL, read by the same code.
    rest = urlencode(asked, doseq=True)
    options: dict[str, Any] = _parse_url(f"redis://any/{database}?{rest}")
    for key in ("host", "port"):
        options.pop(key, None)
    user, _, password = credentials.partition(":")
    options |= {"username": unquote(user)} if user else {}
    options |= {"password": unquote(password)} if password else {}
    tls = {key: value for key, value in options.items() if key.startswith("ssl_")}
    return Named(
        sentinels,
        name,
        {**options, "ssl": True} if is_tls else options,
        {**own, **tls, "ssl": True} if is_tls else own,
    )


def _parts(url: str) -> tuple[str, tuple[Address, ...], str, str, str]:
    """The credentials, the sentinels, the primary's name, the database, the options; as they stand there."""
    rest = url.partition("://")[2]
    if "#" in rest:
        raise _Refused("holds a '#' (in a password write it as %23)")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    userinfo, at, hosts = authority.rpartition("@")
    if at == "" and "@" in path + query:
        raise _Refused("has a malformed host (in a password write / ? # @ as %2F %3F %23 %40)")
    if not hosts:
        raise _Refused("names no sentinel")
    sentinels = tuple(_address(host) for host in hosts.split(","))
    name, _, database = path.removesuffix("/").partition("/")
    if not name:
        raise _Refused(
            "does not end in /NAME, as the sentinels call the primary (sentinel monitor NAME …)"
        )
    if not _NAME.fullmatch(name):
        raise _Refused("gives the primary a name with other characters than A-Z a-z 0-9 . _ -")
    databases = parse_qs(query, keep_blank_values=True).get("db", [])
    if database:
        databases.append(database)
    if not all(number.isascii() and number.isdigit() for number in databases):
        raise _Refused("names a database that is not a number")
    return userinfo, sentinels, name, database, query


def _address(text: str) -> Address:
    if not text:
        raise _Refused("names a sentinel without a host: there is a comma too many")
    if text.count(":") > 1 and not text.startswith("["):
        raise _Refused("has an IPv6 address without its brackets, or a host with two ports")
    match = _HOST.fullmatch(text)
    if match is None:
        raise _Refused("has a malformed host (in a password write / ? # @ as %2F %3F %23 %40)")
    v6, name, port = match.groups()
    if v6 is not None:
        try:
            socket.inet_pton(socket.AF_INET6, v6)
        except OSError:
            raise _Refused("has brackets around what is no IPv6 address") from None
    if port is None:
        port = str(PORT)
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65_536):
        raise _Refused("names a sentinel whose port is no number, or one that no port has")
    return Address(v6 or name, int(port))


# --- the client -----------------------------------------------------------------------------------


def client(url: str, options: dict[str, Any]) -> redis.Redis:
    """A client of whoever is the primary. ``options`` are for Redis; the URL's own win over them."""
    named = parse(url)
    options = options | named.options
    sentinels: Any = _Sentinels(named, options)
    found: redis.Redis = sentinels.master_for(named.name, **options)
    return found


def doubt(redis_client: Any) -> None:
    """What the client is connected to may no longer be the primary: the next command asks anew.

    Of every client; those that no sentinel has a say in are left as they are.
    """
    pool = getattr(redis_client, "connection_pool", None)
    if isinstance(pool, SentinelConnectionPool):
        # Not those that another thread uses just now: they have errors of their own.
        pool.disconnect(inuse_connections=False)
        pool.sentinel_manager.begin_with_another()


def primary_of(redis_client: redis.Redis) -> str:
    """The primary that the client found last; "" for none, and where there are no sentinels."""
    pool = redis_client.connection_pool
    found = pool.master_address if isinstance(pool, SentinelConnectionPool) else None
    return str(Address(*found)) if found else ""


class _Sentinels(Sentinel):
    """redis-py's, with one try each, short ones, and words without secrets. ``options`` are Redis' own."""

    def __init__(self, named: Named, options: dict[str, Any]) -> None:
        waits = {"socket_timeout": ASK_S, "socket_connect_timeout": ASK_S}
        asking = {**waits, **named.sentinel_options, "retry": Retry(NoBackoff(), 0)}
        super().__init__(named.sentinels, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
        self._options = dict(options)
        is_tls = self._options.pop("ssl", False)
        self._options["connection_class"] = redis.SSLConnection if is_tls else redis.Connection

    def begin_with_another(self) -> None:
        self.sentinels.append(self.sentinels.pop(0))

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Where the primary is, by the first sentinel that knows one which says of itself that it is."""
        said, seen = [], {}
        for sentinel in list(self.sentinels):
            try:
                state: Any = sentinel.sentinel_master(service_name)
            except RedisError as error:
                said.append(f"{_where(sentinel)} {_clause(error, service_name)}")
                continue
            finally:
                # It is asked once in months: a kept connection would be one that broke unnoticed.
                sentinel.close()
            address = Address(state["ip"], state["port"])
            if not _is_up(state):
                said.append(f"{_where(sentinel)} holds {address} to be down")
                continue
            if address not in seen:
                seen[address] = self._problem_at(address)
            if not seen[address]:
                self.sentinels.remove(sentinel)
                self.sentinels.insert(0, sentinel)
                return address
            said.append(f"{_where(sentinel)} names {address}, which {seen[address]}")
        raise MasterNotFoundError("; ".join(said))

    def _problem_at(self, address: Address) -> str:
        """Why the server there is not the primary, or cannot be asked, as a clause; "" for nothing."""
        pool = redis.ConnectionPool(host=address.host, port=address.port, **self._options)
        with redis.Redis.from_pool(pool) as server:
            try:
                role: Any = server.role()
            except ResponseError:
                return ""  # this user may not ask
            except RedisError as error:
                return f"says {str(error).rstrip('.')}"
        return "" if role[0] in (b"master", "master") else "is a replica"


def _is_up(state: dict[str, Any]) -> bool:
    return state["is_master"] and not (state["is_sdown"] or state["is_odown"])


def _could_take_over(replica: dict[str, Any]) -> bool:
    is_down = replica["is_sdown"] or replica["is_odown"] or replica["is_disconnected"]
    return not is_down and replica.get("slave-priority") != 0


def _where(sentinel: redis.Redis) -> Address:
    options = sentinel.connection_pool.connection_kwargs
    return Address(options["host"], options["port"])


def _clause(error: RedisError, name: str) -> str:
    if isinstance(error, ResponseError) and "No such" in str(error):
        return f"knows no primary called {name}"
    return f"says {str(error).rstrip('.')}"


# --- what they say --------------------------------------------------------------------------------


def look(url: str) -> Watch:
    """Asks every sentinel of the URL, each for `ASK_S` at most a question. Raises nothing."""
    named = parse(url)
    wrong: dict[str, str] = {}
    found: list[tuple[int, bool, str, str]] = []
    replicas, problems = 0, []
    for sentinel in _Sentinels(named, {}).sentinels:
        who = str(_where(sentinel))
        try:
            state: Any = sentinel.sentinel_master(named.name)
            others: Any = sentinel.sentinel_slaves(named.name)
            problems.append(_quorum(sentinel, named.name))
        except RedisError as error:
            wrong[who] = _clause(error, named.name)
            continue
        finally:
            sentinel.close()
        wrong[who] = ""
        found.append(
            (state["config-epoch"], _is_up(state), str(Address(state["ip"], state["port"])), who)
        )
        replicas = max(replicas, sum(_could_take_over(other) for other in others))
    # Who has the latest word is right; the others will learn.
    _, is_up, primary, _ = max(found, default=(0, False, "", ""))
    for _, _, other, who in found:
        if other != primary:
            wrong[who] = f"still names {other}"
    if not found:
        problem = "no sentinel answers"
    elif all(problems):
        problem = problems[0]
    else:
        problem = "" if replicas else "no replica is there to take over"
    return Watch(named.name, primary if is_up else "", wrong, replicas, problem)


def _quorum(sentinel: redis.Redis, name: str) -> str:
    """Why the sentinels could not agree on a fail-over; "" where they could, or this user may not ask."""
    try:
        asked: Any = sentinel
        asked.execute_command("SENTINEL CKQUORUM", name)
    except ResponseError as error:
        return "too few sentinels see each other" if "NOQUORUM" in str(error) else ""
    return ""
