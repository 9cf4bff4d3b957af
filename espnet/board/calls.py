"""Every call that a board understands, described once: method, path, form, how to read the answer.

Invariants: a `Call` is only data, so that both clients send the same bytes' worth. Forms are
url-encoded because 2021 firmware knows nothing else. Whatever a board answers leaves here as a valid
record or as a `BoardError`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec

from espnet.errors import BoardError
from espnet.model import Climate, Status, decode_status

#: Most bytes that an answer's body may have; a full status is under 1 KB.
MAX_ANSWER_BYTES = 64 * 1024


class Call(NamedTuple):
    """One request. An empty form means no body."""

    method: str
    path: str
    form: tuple[tuple[str, str], ...] = ()

    def body(self) -> str:
        return urlencode(self.form)


GET_BASIC = Call("GET", "/")


def set_gpio(pins: Sequence[int], value: int) -> Call:
    """Sets pins to 0 or 1, or toggles them (2). The board changes all of them or none."""
    return Call("POST", "/gpio", (("pin", ",".join(map(str, pins))), ("value", str(value))))


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


_climate_decoder = msgspec.json.Decoder(Climate)
_any_decoder = msgspec.json.Decoder()


class _Complaint(msgspec.Struct):
    """A board's own words about a request that it refused."""

    error: str
    field: str | None = None


_complaint_decoder = msgspec.json.Decoder(_Complaint)


def require_ok(address: str, status: int, body: bytes) -> bytes:
    """The body of a 2xx answer; raises `BoardError` with the board's own complaint otherwise."""
    if 200 <= status < 300:
        return body
    try:
        complaint = _complaint_decoder.decode(body)
    except msgspec.DecodeError:
        raise BoardError(address, "http", f"answered HTTP {status}", status) from None
    field = f" (field {complaint.field})" if complaint.field else ""
    raise BoardError(
        address,
        "http",
        f"refused: {complaint.error.rstrip('.')}{field}, HTTP {status}",
        status,
        complaint.field or "",
    )


def parse_status(address: str, body: bytes, expected_id: str | None = None) -> Status:
    """The answer to `GET_BASIC`; a different board than ``expected_id`` is a `BoardError`."""
    try:
        status = decode_status(body)
    except msgspec.DecodeError as error:
        raise _unreadable(address, error) from error
    if expected_id is not None and status.id != expected_id:
        raise BoardError(
            address,
            "wrong_id",
            f"is another one: it has the id {status.id}, expected was {expected_id}",
        )
    return status


def parse_climate(address: str, body: bytes) -> Climate:
    """The answer to `read_dht22`."""
    try:
        return _climate_decoder.decode(body)
    except msgspec.DecodeError as error:
        raise _unreadable(address, error) from error


def parse_any(address: str, body: bytes) -> dict[str, Any]:
    """Any other answer, as the JSON object that it must be."""
    try:
        answer = _any_decoder.decode(body)
    except msgspec.DecodeError as error:
        raise _unreadable(address, error) from error
    if not isinstance(answer, dict):
        raise BoardError(address, "bad_answer", "answered JSON that is not an object")
    return answer


def _unreadable(address: str, error: msgspec.DecodeError) -> BoardError:
    if isinstance(error, msgspec.ValidationError):
        return BoardError(address, "bad_answer", f"answered without sense: {error}")
    return BoardError(address, "not_json", f"did not answer JSON: {error}")
