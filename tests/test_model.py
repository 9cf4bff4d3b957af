"""Laws of `espnet.model` and `espnet.samples`: what the bytes mean, and what follows from them."""

import msgspec
import pytest
from board_wire import status_body
from hypothesis import given
from hypothesis import strategies as st

from espnet.model import (
    FRESH_INTERVALS,
    Climate,
    Device,
    Fault,
    Reading,
    View,
    celsius_to_fahrenheit,
    decode_device,
    decode_fault,
    decode_reading,
    decode_status,
    encode,
    phase,
)
from espnet.samples import (
    Books,
    DeadLetter,
    Queue,
    SampleBatch,
    SinkState,
    decode_batch,
    decode_letter,
    decode_sink_state,
    finite,
)

DEVICE = Device(
    id="b1",
    name="porch",
    address="10.0.0.7",
    tags=("room:attic",),
    interval_s=0.5,
    dht22={"air": 4},
    report_pins=(2, 4),
    registered_at=1.5,
)
READING = Reading(
    at=100.0,
    poll_s=0.01,
    interval_s=10.0,
    collector="here",
    status=msgspec.Raw(status_body(uptime_s=7)),
    dht22={"air": Climate(21.5, 40.0)},
    dht22_errors={"soil": "no answer"},
)
FAULT = Fault(kind="timeout", what="did not answer", failures=3, since=90.0, at=110.0)
BATCH = SampleBatch(100.0, ("name:porch",), (("esp32.f", 104.0, ()), ("esp32.gpio", 1, ("pin:2",))))

STATE = SinkState(
    state="failing", at=100.0, since=90.0, uploader="here", reason="503", status=503, retry_at=104.5
)
LETTER = DeadLetter(BATCH.samples()[1], "It is not liked.", 100.0)

RECORDS = [
    (DEVICE, decode_device),
    (FAULT, decode_fault),
    (BATCH, decode_batch),
    (STATE, decode_sink_state),
    (LETTER, decode_letter),
]


@pytest.mark.parametrize(("record", "decode"), RECORDS, ids=lambda part: type(part).__name__)
def test_records_survive_their_bytes(record, decode) -> None:
    """What was stored is what is read, and it is plain JSON."""
    assert decode(encode(record)) == record
    assert msgspec.json.decode(encode(record))


def test_a_reading_keeps_the_board_s_answer_byte_for_byte() -> None:
    """Fields that EspNet does not know yet are not lost on the way."""
    body = b'{"id": "b1",  "f": 1, "gpio": {"2": 1}, "new": [1.0, "\xc3\xa9"]}'
    reading = msgspec.structs.replace(READING, status=msgspec.Raw(body))
    again = decode_reading(encode(reading))
    assert bytes(again.status) == body
    assert again.decoded().gpio == {2: 1}
    assert (again.dht22, again.dht22_errors) == (READING.dht22, READING.dht22_errors)


def test_a_record_that_decodes_is_valid() -> None:
    """A field of the wrong type never gets into the program."""
    for wrong in (b'{"id": 1, "name": "a", "address": "b"}', b'{"id": "a"}', b"[]", b""):
        with pytest.raises(msgspec.DecodeError):
            decode_device(wrong)


NEWER = {
    "build": "0123456789ab",
    "trial": True,
    "safe_mode": False,
    "boots": 17,
    "idf_free": 61_000,
    "idf_largest": 31_000,
}


def test_a_board_of_any_age_has_a_status() -> None:
    """What a board says of its release and its memory is kept; one that knows nothing of it says nothing."""
    new = decode_status(status_body(**NEWER))
    assert {name: getattr(new, name) for name in NEWER} == NEWER
    old = decode_status(status_body())
    assert {getattr(old, name) for name in NEWER} == {None}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        (name, wrong)
        for name in NEWER
        for wrong in ("1", 1, True, 1.5, [], {})
        if type(wrong) is not type(NEWER[name])
    ],
)
def test_a_status_with_a_field_of_another_type_is_none(name: str, wrong: object) -> None:
    """Text is no number, 1 is not true: a board that answers so is not believed at all."""
    with pytest.raises(msgspec.ValidationError):
        decode_status(status_body(**{name: wrong}))


@pytest.mark.parametrize(
    ("age_s", "fault", "state"),
    [
        (0, None, "online"),
        (FRESH_INTERVALS * 10, None, "online"),
        (FRESH_INTERVALS * 10 + 0.1, None, "offline"),
        (0, FAULT, "late"),
        (FRESH_INTERVALS * 10 + 0.1, FAULT, "offline"),
    ],
)
def test_a_device_is_online_while_its_reading_is_fresh(age_s, fault, state) -> None:
    """Freshness is counted in the device's own intervals, and a failed poll makes it late at once."""
    assert View(DEVICE, READING, fault).state(READING.at + age_s) == state


def test_a_device_without_a_reading_is_new_or_offline() -> None:
    """Never polled is something else than never answered."""
    assert View(DEVICE, None, None).state(0) == "new"
    assert View(DEVICE, None, FAULT).state(0) == "offline"


def test_0_degrees_are_a_temperature() -> None:
    """0.0 is a value like any other, never 'nothing'."""
    assert celsius_to_fahrenheit(0) == 32
    assert Climate(-40, 0).temp_f == -40
    assert View(DEVICE, READING, None).state(READING.at) == "online"


@given(st.lists(st.floats() | st.integers(0, 1)))
def test_only_numbers_pass_the_gate(values) -> None:
    """NaN and infinities are taken out and counted; nothing else is touched."""
    points = [("m", value, ()) for value in values]
    kept, refused = finite(points)
    assert len(kept) + refused == len(points)
    assert [p for p in points if p[1] - p[1] == 0] == list(kept)


def test_a_batch_becomes_samples_with_all_their_tags() -> None:
    """The shared time and tags belong to every sample of the poll."""
    first, second = BATCH.samples()
    assert (first.metric, first.value, first.at, first.tags) == (
        "esp32.f",
        104.0,
        100.0,
        ("name:porch",),
    )
    assert second.tags == ("name:porch", "pin:2")


def test_empty_books_are_zeros() -> None:
    """Before the first sample the books balance, too."""
    assert Books() == Books(
        collected=0, accepted=0, expired=0, dead=0, dropped=0, queued=0, repeated=0
    )
    assert Books().is_balanced
    assert Queue() == Queue(collected=0, queued=0, bytes=0, refused=0, dropped=0)


@pytest.mark.parametrize("end", ["accepted", "expired", "dead", "dropped", "queued"])
def test_books_balance_when_every_sample_is_somewhere(end) -> None:
    """Collected is the sum of the five ends; what may have been sent twice is none of them."""
    assert Books(collected=5, repeated=3, **{end: 5}).is_balanced
    assert not Books(collected=5, repeated=3, **{end: 4}).is_balanced
    assert not Books(collected=4, **{end: 5}).is_balanced


@pytest.mark.parametrize("end", ["dead", "queued"])
def test_what_is_still_there_cannot_be_less_than_nothing(end) -> None:
    """A sum that is right by two wrongs is no balance."""
    assert not Books(collected=5, accepted=6, **{end: -1}).is_balanced


def test_phases_spread_a_fleet_evenly() -> None:
    """A thousand boards with neighbouring ids are due all over their interval, always the same way."""
    phases = [phase(f"2462abcd{number:04x}") for number in range(1000)]
    assert all(0 <= p < 1 for p in phases)
    assert phases == [phase(f"2462abcd{number:04x}") for number in range(1000)]
    for tenth in range(10):
        assert 60 <= sum(tenth <= p * 10 < tenth + 1 for p in phases) <= 140
