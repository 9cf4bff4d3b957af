"""Datadog's metrics intake, through the ``datadog`` library (``POST /api/v1/series``).

Invariants: accepted means HTTP 2xx with ``{"status": "ok"}``; every other end of a request is a
refusal with a reason. Requests are compressed and bounded by bytes. The library keeps its settings,
its time-out counter and its back-off in classes and modules: each request sets them anew under one
lock, so sinks do not disturb each other and the library never swallows a request by its own will.
The keys are in requests' headers and nowhere else.
"""

import itertools
import json
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from espnet.errors import SinkError
from espnet.model import Sample
from espnet.sinks import Outcome, Verdict

DEFAULT_HOST = "https://api.datadoghq.com"
#: Raw bytes of one request. Datadog allows 4 MB raw and 500 kB compressed; numbers that look random
#: compress to less than half, so this keeps to both.
REQUEST_BYTES = 1_000_000
#: JSON around a series (names of its fields) and around a point (two numbers of up to 24 digits).
_SERIES_BYTES, _POINT_BYTES = 64, 56

_library_lock = threading.Lock()


class Datadog:
    """Sends samples as gauges.

    ``host`` is the intake's base URL. ``timeout_s`` bounds the connect and each wait for bytes of the
    answer. Raises `SinkError` for a key or host that cannot be right. The library is imported by the
    first `send`, because it costs 0.15 s.
    """

    name = "datadog"
    window_s: float | None = 3600.0
    future_s: float | None = 600.0

    def __init__(
        self, api_key: str, app_key: str = "", host: str = DEFAULT_HOST, *, timeout_s: float = 10.0
    ) -> None:
        for name, key in (("API", api_key), ("application", app_key)):
            if not (key.isascii() and key.isprintable() and " " not in key):
                raise SinkError(
                    f"The Datadog {name} key holds characters that no key has; copy it again."
                )
        if not api_key:
            raise SinkError("Datadog needs an API key; set DATADOG_API_KEY.")
        self._keys = (api_key, app_key)
        self._host, self._where, local = _parse_host(host)
        # A machine-wide proxy must not be asked for a server on this very machine.
        self._proxies = {"no_proxy": local} if local else None
        self._timeout_s = timeout_s
        self._library: _Library | None = None

    def send(self, samples: Sequence[Sample]) -> Outcome:
        """Delivers samples, several requests if need be; stops at the first that is refused."""
        accepted = 0
        # Python's JSON would write NaN, which is not JSON. The queue's gate lets none come so far.
        numbers = list(itertools.takewhile(_is_finite, samples))
        for count, series in _requests(numbers):
            reason, status = self._post(series)
            if reason:
                return Outcome(
                    accepted,
                    {
                        400: Verdict.BAD,
                        413: Verdict.TOO_LARGE,
                        401: Verdict.DENIED,
                        403: Verdict.DENIED,
                    }.get(status or 0, Verdict.BUSY),
                    reason,
                    count,
                    status is None,
                    status=status,
                )
            accepted += count
        if accepted < len(samples):
            metric = samples[accepted].metric
            return Outcome(
                accepted, Verdict.BAD, f"A sample of {metric} is not finite; it was not sent.", 1
            )
        return Outcome(accepted)

    def _post(self, series: list[dict[str, Any]]) -> tuple[str, int | None]:
        """One request: why it was not accepted ('' when it was), and the HTTP status."""
        with _library_lock:
            library = self._prepared()
            try:
                answer = library.api.Metric.send(
                    metrics=series, attach_host_name=False, compress_payload=True
                )
            except library.errors as error:
                response = library.client.response
                # A response's own truth is whether its status is good.
                response = _response_of(error) if response is None else response
                why = _explain(error, library.exceptions, response, self._timeout_s)
            else:
                response, why = library.client.response, 'the body does not say "ok"'
                if response.ok and isinstance(answer, dict) and answer.get("status") == "ok":
                    return "", response.status_code
        status = response.status_code if response is not None else None
        return self._sentence(status, why), status

    def _prepared(self) -> "_Library":
        """The library, imported and set up for this sink and this request."""
        library = self._library = self._library or _load()
        api, client = library.api, library.client
        api._api_key, api._application_key = self._keys[0], self._keys[1] or None
        api._api_host, api._proxies, api._timeout = self._host, self._proxies, self._timeout_s
        api._mute, api._return_raw_response = False, False
        # Three time-outs, and the library refuses every request of the process for five minutes.
        library.submitter._timeout_counter, library.submitter._backoff_timestamp = 0, None
        library.submitter._http_client = client
        client.response = None
        return library

    def _sentence(self, status: int | None, why: str) -> str:
        text = f"Datadog at {self._where} "
        if status is None:
            text += why
        else:
            text += f"answered {status}: {why}" if why else f"answered {status}"
        if status in (401, 403):
            text += "; check DATADOG_API_KEY and DATADOG_HOST"
        for key in filter(None, self._keys):
            # An intake may repeat what it was told.
            text = text.replace(key, "(key)")
        return text + "."


class _Library(NamedTuple):
    """The parts of the library that requests need, and everything that it raises."""

    api: Any
    submitter: Any
    client: Any
    exceptions: Any
    errors: tuple[type[Exception], ...]


def _load() -> _Library:
    from datadog import api
    from datadog.api import exceptions
    from datadog.api.api_client import APIClient
    from datadog.api.http_client import RequestClient
    from requests import RequestException, Response, Session

    session = Session()
    # A redirection would carry the key to wherever it points.
    session.max_redirects = 0

    class Client(RequestClient):
        """Keeps the latest answer, whose status the library does not tell."""

        _session = session
        response: Response | None = None

        @classmethod
        def request(cls, *args: Any, **kwargs: Any) -> Any:
            cls.response = super().request(*args, **kwargs)
            return cls.response

    # ValueError is how the library says that an answer is not JSON.
    errors = (exceptions.DatadogException, RequestException, ValueError)
    return _Library(api, APIClient, Client, exceptions, errors)


def _response_of(error: BaseException) -> Any:
    """The HTTP answer that made the library raise, or None."""
    responses = (getattr(e, "response", None) for e in _chain(error))
    return next((response for response in responses if response is not None), None)


def _explain(error: Exception, exceptions: Any, response: Any, timeout_s: float) -> str:
    """The error in our words: the library's hold object addresses and advice to write to support."""
    if isinstance(error, exceptions.ApiError):
        return _errors_of(error.args[0])
    if response is not None:
        is_error = response.is_redirect or not response.ok
        return str(response.reason) if is_error else "the body is not JSON"
    causes = list(_chain(error))
    if any(isinstance(e, exceptions.HttpTimeout | TimeoutError) for e in causes):
        return f"did not answer within {timeout_s:g} s"
    told = next((e.strerror for e in causes if isinstance(e, OSError) and e.strerror), None)
    if told:
        return f"cannot be reached ({told})"
    if isinstance(error, ValueError):
        return "cannot be reached (no such address is possible)"
    return "closed the connection before it had answered"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and all that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _errors_of(answer: Any) -> str:
    """What an intake complains of, as one bounded line."""
    errors = answer.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else errors
    return " ".join(str(first).split())[:200].rstrip(".")


def _is_finite(sample: Sample) -> bool:
    return math.isfinite(sample.value) and math.isfinite(sample.at)


def _requests(samples: Sequence[Sample]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Samples as the series of one request after another, each with how many samples it carries.

    Points of one metric with the same tags share a series. A request carries neighbours only, so what
    was accepted is always a beginning of what was given.
    """
    count, size_bytes = 0, 0
    series: dict[tuple[str, tuple[str, ...]], list[tuple[float, float]]] = {}
    for sample in samples:
        name = (sample.metric, sample.tags)
        head_bytes = 0 if name in series else _SERIES_BYTES + len(json.dumps(name))
        if count and size_bytes + head_bytes + _POINT_BYTES > REQUEST_BYTES:
            yield count, _body(series)
            count, size_bytes, series = 0, 0, {}
            head_bytes = _SERIES_BYTES + len(json.dumps(name))
        series.setdefault(name, []).append((sample.at, sample.value))
        count += 1
        size_bytes += head_bytes + _POINT_BYTES
    if count:
        yield count, _body(series)


def _body(
    series: dict[tuple[str, tuple[str, ...]], list[tuple[float, float]]],
) -> list[dict[str, Any]]:
    return [
        {"metric": metric, "type": "gauge", "tags": list(tags), "points": points}
        for (metric, tags), points in series.items()
    ]


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
