"""Datadog's metrics intake, through the ``datadog`` library (``POST /api/v1/series``).

Invariants: accepted means HTTP 2xx with ``{"status": "ok"}``; every other end of a request is a
refusal with a reason. Requests are compressed and bounded. The library makes each request (headers,
JSON, compression) and `net` sends it, because the library keeps its settings, its time-out counter
and its back-off in classes and modules: they are one sink's for the moment that making takes,
and no sink waits for another one's network. The keys are in requests' headers and nowhere else.
"""

import json
import math
import threading
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring_ascii as _as_json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from espnet import __version__
from espnet.clock import SystemClock
from espnet.errors import SinkError
from espnet.samples import Sample
from espnet.sinks import SEND_S, Outcome, Verdict
from espnet.sinks.http_times import date_of, retry_after_of

if TYPE_CHECKING:
    from espnet.net.exchange import ExchangeError, Exchanger, Reply

DEFAULT_HOST = "https://api.datadoghq.com"
#: Most that Datadog takes in one request; raw, it takes 4 MB.
COMPRESSED_BYTES = 500_000
#: Raw bytes of one request, at most. More would be sent no faster, and must pass a slow line in time.
RAW_BYTES = 1_000_000
#: The same after a request that did not compress well enough: what cannot be compressed at all
#: grows by less than 0.1 %, so this keeps to `COMPRESSED_BYTES` whatever is in it.
SAFE_BYTES = 490_000
#: JSON around a series (names of its fields) and around a point (two numbers of up to 24 digits).
_SERIES_BYTES, _POINT_BYTES = 72, 56
#: More of an answer is not read, and no more of its words are told.
_ANSWER_BYTES, _QUOTE = 64 * 1024, 200
#: A connection is kept for so long between requests, in seconds: servers end idle ones after five or
#: more, and a request that meets its connection's end may or may not have arrived.
_KEEP_S = 3.0

#: Verdicts by status; all others are `Verdict.BUSY`.
_VERDICTS = {
    400: Verdict.BAD,
    401: Verdict.DENIED,
    403: Verdict.DENIED,
    413: Verdict.TOO_LARGE,
}
#: A gateway passed the request on and got no usable answer to it. 408 is not one of these: it says
#: that the request did not come whole (RFC 9110). 500 and 503 are refusals of who was asked.
_GATEWAY = (502, 504)

_monotonic = SystemClock().monotonic
_library_lock = threading.Lock()


class Datadog:
    """Sends samples as gauges. One thread's at a time; any number of sinks in a process.

    ``host`` is the intake's base URL. A request may last ``timeout_s``, a whole `send` ``within_s``.
    Raises `SinkError` for a key or host that cannot be right. The library is imported by the first
    `send`, because it costs 0.15 s.
    """

    name = "datadog"
    window_s: float | None = 3_600.0
    future_s: float | None = 600.0

    def __init__(
        self,
        api_key: str,
        app_key: str = "",
        host: str = DEFAULT_HOST,
        *,
        timeout_s: float = 10.0,
        within_s: float = SEND_S - 1.0,
    ) -> None:
        for name, key in (("API", api_key), ("application", app_key)):
            if not (key.isascii() and key.isprintable() and " " not in key):
                raise SinkError(
                    f"The Datadog {name} key holds characters that no key has; copy it again."
                )
        if not api_key:
            raise SinkError("Datadog needs an API key; set DATADOG_API_KEY.")
        self._keys = (api_key, app_key)
        self._host, self._where, self._local = _parse_host(host)
        self._timeout_s, self._within_s = timeout_s, within_s
        self._exchanger: Exchanger | None = None
        self._last_used = 0.0

    def send(self, samples: Sequence[Sample]) -> Outcome:
        """Delivers samples, several requests if need be; stops at the first that is refused.

        No request is begun that might outlast the time.
        """
        began = _monotonic()
        outcome = Outcome(0)
        most_bytes = RAW_BYTES
        while (accepted := outcome.accepted) < len(samples):
            count, series, problem = _batch(samples, accepted, most_bytes)
            if not count:
                return Outcome(accepted, Verdict.BAD, problem, tried=1, date=outcome.date)
            made = _made(series, self._keys, self._host)
            if len(made.body) > COMPRESSED_BYTES:
                most_bytes = SAFE_BYTES
                continue
            left_s = self._within_s - (_monotonic() - began)
            # The first one is begun even with less: a machine that slept must get on.
            if left_s < (self._timeout_s if accepted else 0.001):
                why = self._sentence(f"took {accepted} samples in the time there was")
                return Outcome(accepted, Verdict.BUSY, why, retry_after_s=0.0, date=outcome.date)
            outcome = self._post(made, count, min(left_s, self._timeout_s))
            if outcome.verdict is not Verdict.OK:
                return outcome._replace(accepted=accepted)
            outcome = outcome._replace(accepted=accepted + count)
        return outcome

    def close(self) -> None:
        """Ends the kept connection; `send` makes a new one when it needs one."""
        if self._exchanger is not None:
            self._exchanger.close()

    def _post(self, made: "_Made", count: int, timeout_s: float) -> Outcome:
        """One request. What is accepted is left for the caller to fill in."""
        from espnet.net.exchange import ExchangeError, Exchanger

        if self._exchanger is None:
            # A machine-wide proxy must not be asked for a server on this very machine.
            self._exchanger = Exchanger(_monotonic, keep=True, trust_env=True, direct=self._local)
        if _monotonic() - self._last_used > _KEEP_S:
            self._exchanger.close()
        try:
            reply = self._exchanger.exchange(
                "POST",
                made.url,
                headers=made.headers,
                body=made.body,
                timeout_s=timeout_s,
                max_bytes=_ANSWER_BYTES,
            )
        except ExchangeError as error:
            why = self._sentence(_why_without_reply(error, timeout_s))
            return Outcome(0, Verdict.BUSY, why, tried=count, is_unsure=error.is_sent)
        finally:
            self._last_used = _monotonic()
        return self._judge(reply, count)

    def _judge(self, reply: "Reply", count: int) -> Outcome:
        """What an answer means for the samples that it answers."""
        date = date_of(reply.headers)
        is_success = 200 <= reply.status < 300
        said = _said(reply.body)
        errors = said.get("errors")
        if is_success and said.get("status") == "ok" and not errors:
            return Outcome(0, date=date, status=reply.status)
        if errors:
            why = self._quote(errors[0] if isinstance(errors, list) else errors)
        elif is_success and reply.fault is not None:
            why = _FAULTS.get(reply.fault, "")
        elif is_success:
            why = 'the body does not say "ok"'
        else:
            why = self._quote(reply.reason)
        what = f"answered {reply.status}" + (f": {why}" if why else "")
        if reply.status in (401, 403):
            what += "; check DATADOG_API_KEY and DATADOG_HOST"
        return Outcome(
            0,
            _VERDICTS.get(reply.status, Verdict.BUSY),
            self._sentence(what),
            tried=count,
            is_unsure=reply.is_sent and (is_success or reply.status in _GATEWAY),
            retry_after_s=retry_after_of(reply.status, reply.headers),
            date=date,
            status=reply.status,
        )

    def _quote(self, words: object) -> str:
        """What an intake says, as one bounded, printable line: it may repeat what it was told."""
        text = " ".join(str(words).split())
        for key in filter(None, self._keys):
            text = text.replace(key, "(key)")
        return "".join(c if c.isprintable() else "?" for c in text[:_QUOTE]).rstrip(".")

    def _sentence(self, what: str) -> str:
        return f"Datadog at {self._where} {what}."


#: An answer that began well, by how it went on.
_FAULTS = {
    "timeout": "its body did not come in time",
    "too_large": "its body is far too large",
    "closed": "the connection closed before its body was whole",
}


def _why_without_reply(error: "ExchangeError", timeout_s: float) -> str:
    match error.fault:
        case "refused" | "unknown" | "unreachable":
            return f"cannot be reached ({error.detail or 'no way there'})"
        case "connect":
            return f"cannot be reached (no connection within {timeout_s:g} s)"
        case "timeout" if error.is_sent:
            return f"did not answer within {timeout_s:g} s"
        case "timeout":
            return f"did not take the request within {timeout_s:g} s"
        case "closed":
            return "closed the connection before it had answered"
        case "too_large" | "not_http":
            return "does not speak HTTP as an intake does"


def _said(body: bytes) -> dict[str, Any]:
    """The body as a JSON object; empty for anything else."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


class _Made(NamedTuple):
    """A request as the library makes it."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class _Catcher:
    """Stands where the library keeps its HTTP client: it is handed the request instead of sending it."""

    made: _Made

    def request(self, *, url: str, headers: dict[str, str], data: bytes, **_: object) -> Any:
        own = {"User-Agent": f"espnet/{__version__}", "Accept-Encoding": "identity"}
        self.made = _Made(url, {**headers, **own}, data)
        return SimpleNamespace(status_code="made", content=b"")


def _made(series: list[dict[str, Any]], keys: tuple[str, str], host: str) -> _Made:
    """The library's request for these series, with nothing of the library's left set."""
    from datadog import api
    from datadog.api.api_client import APIClient

    library: Any = api
    client: Any = APIClient
    catcher = _Catcher()
    with _library_lock:
        library._api_key, library._application_key = keys[0], keys[1] or None
        library._api_host = host
        # Three time-outs of anybody's, and the library refuses every request for five minutes.
        client._timeout_counter, client._backoff_timestamp = 0, None
        client._http_client = catcher
        try:
            library.Metric.send(metrics=series, attach_host_name=False, compress_payload=True)
        finally:
            client._http_client = library._api_key = library._application_key = None
    return catcher.made


class _Batch(NamedTuple):
    """Neighbours that go in one request: how many, and as what. Points of one metric with the same
    tags share a series.

    With a ``problem`` no request can carry the sample after them.
    """

    samples: int
    series: list[dict[str, Any]]
    problem: str = ""


def _batch(samples: Sequence[Sample], start: int, most_bytes: int) -> _Batch:
    """From ``start`` on, as many as fit."""
    size_bytes = 0
    series: list[dict[str, Any]] = []
    points_of: dict[tuple[str, tuple[str, ...]], list[tuple[float, float]]] = {}
    for index in range(start, len(samples)):
        sample = samples[index]
        metric, value, at, tags = sample.metric, sample.value, sample.at, sample.tags
        # Python's JSON would write NaN, which is not JSON. The queue's gate lets none come so far.
        if not (math.isfinite(value) and math.isfinite(at)):
            problem = f"A sample of {metric} is not finite; it was not sent."
            return _Batch(index - start, series, problem)
        points = points_of.get((metric, tags))
        size_bytes += _POINT_BYTES
        if points is None:
            size_bytes += _SERIES_BYTES + 4 * len(tags) + len(_as_json(metric + "".join(tags)))
        if size_bytes > most_bytes:
            problem = f"A sample of {metric} is too long for any request." if index == start else ""
            return _Batch(index - start, series, problem)
        if points is None:
            points = points_of[metric, tags] = []
            series.append({"metric": metric, "type": "gauge", "tags": tags, "points": points})
        points.append((at, value))
    return _Batch(len(samples) - start, series)


def _parse_host(host: str) -> tuple[str, str, str]:
    """The base URL, the same without credentials, and the host's name if it is this machine's."""
    try:
        parts = urlsplit(host)
        name, port = parts.hostname, parts.port
    except ValueError:
        name, port = None, None
    if not name or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise SinkError(
            f"The Datadog host must be a URL such as {DEFAULT_HOST}; set DATADOG_HOST to one."
        )
    shown = f"[{name}]" if ":" in name else name
    where = f"{parts.scheme}://{shown}" + (f":{port}" if port else "")
    is_local = name in ("localhost", "::1") or name.startswith("127.")
    return host, where, name if is_local else ""
