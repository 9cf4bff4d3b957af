"""Every call that a board understands, described once: method, path, form, how to read the answer.

Invariants: a `Call` is only data, so that both clients send the same bytes' worth. Forms are
url-encoded because 2021 firmware knows nothing else. Whatever a board answers leaves here as a valid
record or as a `BoardError`.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode

import msgspec

from espnet.errors import BoardError
from espnet.model import Climate, Details, Status, decode_details, decode_status
from espnet.names import problem_with_name

#: Most bytes that an answer's body may have; a full status is under 1 KB.
MAX_ANSWER_BYTES = 64 * 1024
#: Most characters that a board takes of who wants a pin.
MAX_BY = 40
#: Most characters of a board's own words that go into an error, a log line or Redis.
MAX_QUOTE = 200

T = TypeVar("T")


class Call(NamedTuple):
    """One request. Its body is the form, or ``content`` of the type ``media``; none where both are empty."""

    method: str
    path: str
    form: tuple[tuple[str, str], ...] = ()
    content: bytes = b""
    media: str = "application/x-www-form-urlencoded"

    def body(self) -> bytes:
        return urlencode(self.form).encode() if self.form else self.content


GET_BASIC = Call("GET", "/")


def set_gpio(
    pins: Sequence[int],
    value: int,
    *,
    lease_s: int | None = None,
    safe: str = "low",
    fence: int | None = None,
    by: Sequence[str] = (),
) -> Call:
    """Sets pins to 0 or 1, or toggles them (2). The board changes all of them or none.

    With ``lease_s`` the board sets the pins to their ``safe`` level (low, high, hold) by itself unless
    the lease is renewed in time. With ``fence`` it refuses (409) when it has seen a higher one. ``by``
    are the names of those who want it, which its page shows.
    """
    form = [("pin", ",".join(map(str, pins))), ("value", str(value))]
    if lease_s is not None:
        form += [("lease_s", str(lease_s)), ("safe", safe)]
    if fence is not None:
        form.append(("fence", str(fence)))
    if by:
        form.append(("by", _names(by)))
    return Call("POST", "/gpio", tuple(form))


def _names(by: Sequence[str]) -> str:
    """Names as boards take them for sure: a write must not fail for what is only shown."""
    text = ", ".join(dict.fromkeys(by))
    if not (text.isascii() and text.isprintable()):
        return "a job"
    return text if len(text) <= MAX_BY else text[: MAX_BY - 3] + "..."


def read_adc(read_pin: int, power_pin: int | None, samples: int) -> Call:
    """Samples an ADC pin, with the sensor's power pin high meanwhile."""
    form = [("read_pin", str(read_pin)), ("samples", str(samples))]
    if power_pin is not None:
        form.append(("power_pin", str(power_pin)))
    return Call("POST", "/adc", tuple(form))


def read_dht22(pin: int) -> Call:
    """Reads a DHT22 that hangs on ``pin``."""
    return Call("POST", "/dht22", (("read_pin", str(pin)),))


def set_host(address: str) -> Call:
    """Tells the board who manages it (shown in its ``espnet_host``)."""
    return Call("POST", "/set_host", (("ip", address),))


#: What the page shows beside the status, the last crash among it.
GET_DETAILS = Call("GET", "/details")
#: The settings in use; of every password only whether there is one.
GET_SETTINGS = Call("GET", "/settings")
#: The board answers first.
RESTART = Call("POST", "/restart")


def post_settings(content: bytes) -> Call:
    """Replaces the board's settings (`espnet.settings.encode`); they hold from its next restart on."""
    return Call("POST", "/settings", content=content, media="application/json")


def renew_leases(fence: int) -> Call:
    """Reads a board as `GET_BASIC` does, with the fence in charge: on a claimed board a right to control."""
    return Call("GET", f"/?fence={fence}")


def claim(ha1: str, private: bool) -> Call:
    """Gives an open board its first password. ``private``: reading takes it, too."""
    return Call("POST", "/claim", (("ha1", ha1), ("private", _word(private))))


def reclaim(known: str, ha1: str, private: bool) -> Call:
    """Gives a claimed board another password, sealed under ``known`` (`Login.coming`): whoever
    listens learns nothing, and what is spoilt on the way is refused. docs/board.md, "Claiming"."""
    mask = sha256(f"{known}:rotate".encode()).digest()
    sealed = bytes(a ^ b for a, b in zip(bytes.fromhex(ha1), mask, strict=True)).hex()
    check = sha256(f"{known}:check:{ha1}:{_word(private)}".encode()).hexdigest()
    form = (("sealed", sealed), ("check", check), ("private", _word(private)))
    return Call("POST", "/claim", form)


def _word(truth: bool) -> str:
    return "true" if truth else "false"


_climate_decoder = msgspec.json.Decoder(Climate)
_any_decoder = msgspec.json.Decoder()


class _Samples(msgspec.Struct):
    """What `read_adc` brings."""

    data: list[float]


_samples_decoder = msgspec.json.Decoder(_Samples)


class _Complaint(msgspec.Struct):
    """A board's own words about a request that it refused."""

    error: str
    field: str | None = None
    fence: int | None = None
    at: int | None = None
    needed: int | None = None
    free: int | None = None

    def facts(self) -> dict[str, int]:
        numbers = (("fence", self.fence), ("at", self.at), ("needed", self.needed))
        return {name: n for name, n in (*numbers, ("free", self.free)) if n is not None}


_complaint_decoder = msgspec.json.Decoder(_Complaint)


def require_ok(address: str, status: int, body: bytes, retry_after: bytes = b"") -> bytes:
    """The body of a 2xx answer; raises `BoardError` with the board's own complaint otherwise.

    ``retry_after`` is the header of that name. One that is a date says nothing: boards have no clock.
    """
    if 200 <= status < 300:
        return body
    kind = "denied" if status in (401, 429) else "http"
    try:
        complaint = _complaint_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        what = f"answered HTTP {status}"
        raise BoardError(address, kind, what, status, facts=_when(retry_after)) from None
    what, field = _quoted(complaint.error).rstrip("."), _quoted(complaint.field or "")
    where = f" (field {field})" if field else ""
    facts = complaint.facts() | _when(retry_after)
    raise BoardError(address, kind, f"refused: {what}{where}, HTTP {status}", status, field, facts)


def _when(retry_after: bytes) -> dict[str, int]:
    text = retry_after.strip()
    return {"retry_after_s": int(text)} if text.isdigit() and len(text) < 10 else {}


#: What there is against an answer without the board's proof.
UNPROVED = "does not prove that it knows its password: is something else at its address?"


def require_done(address: str, body: bytes) -> None:
    """Raises `BoardError` where a body is a refusal: who is on the way can change an answer's status, which
    no proof covers, and not its body."""
    try:
        complaint = _complaint_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    raise BoardError(address, "http", f"refused: {_quoted(complaint.error)}")


def parse_status(address: str, body: bytes, expected_id: str | None = None) -> Status:
    """The answer to `GET_BASIC`; a different board than ``expected_id`` is a `BoardError`.

    Without ``expected_id``, the id must be one that may become a key.
    """
    status = decoded(decode_status, address, body)
    if expected_id is None:
        if problem := problem_with_name(status.id):
            raise BoardError(address, "bad_answer", f"has an id that cannot be used: it {problem}")
    else:
        _require_id(address, status.id, expected_id)
    return status


def _require_id(address: str, board_id: str, expected_id: str) -> None:
    if board_id != expected_id:
        raise BoardError(
            address,
            "wrong_id",
            f"is another one: it has the id {_quoted(board_id)}, expected was {expected_id}",
        )


def parse_details(address: str, body: bytes, expected_id: str) -> Details:
    """The answer to `GET_DETAILS`; a different board is a `BoardError`."""
    details = decoded(decode_details, address, body)
    _require_id(address, details.id, expected_id)
    return details


def parse_climate(address: str, body: bytes) -> Climate:
    """The answer to `read_dht22`."""
    return decoded(_climate_decoder.decode, address, body)


def parse_adc(address: str, body: bytes) -> float:
    """The answer to `read_adc`: the mean of its samples, raw."""
    data = decoded(_samples_decoder.decode, address, body).data
    if not data:
        raise BoardError(address, "bad_answer", "sampled nothing")
    return sum(data) / len(data)


def parse_any(address: str, body: bytes) -> dict[str, Any]:
    """Any other answer, as the JSON object that it must be."""
    answer = decoded(_any_decoder.decode, address, body)
    if not isinstance(answer, dict):
        raise BoardError(address, "bad_answer", "answered JSON that is not an object")
    return answer


def decoded(decode: Callable[[bytes], T], address: str, body: bytes) -> T:
    """What ``decode`` makes of a body; raises `BoardError` whatever the bytes are."""
    try:
        if not body.isascii():
            body.decode()  # msgspec does not look into the fields that it skips
        return decode(body)
    except msgspec.ValidationError as error:
        what = f"answered without sense: {_quoted(str(error))}"
        raise BoardError(address, "bad_answer", what) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BoardError(address, "not_json", f"did not answer JSON: {error}") from error
    except RecursionError as error:
        raise BoardError(address, "bad_answer", "answered JSON that is nested too deep") from error


def _quoted(text: str) -> str:
    """A board's own words, safe to print and to store: bounded, and no control characters."""
    short = text if len(text) <= MAX_QUOTE else text[:MAX_QUOTE] + "…"
    return "".join(character if character.isprintable() else "�" for character in short)
