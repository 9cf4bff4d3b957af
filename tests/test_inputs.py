"""Laws of `espnet.inputs`: what a text names, and what a value must be to be one."""

import msgspec
import pytest
from board_wire import status_body
from hypothesis import given
from hypothesis import strategies as st

from espnet import inputs
from espnet.errors import UsageError
from espnet.model import Climate, Reading

READING = Reading(
    at=1000.0,
    poll_s=0.1,
    interval_s=10.0,
    collector="here",
    status=msgspec.Raw(status_body()),
    dht22={"air": Climate(21.5, 40.0)},
    dht22_errors={"dead": "no answer"},
    adc={36: 1234.5},
    adc_errors={39: "is wired to nothing"},
    wrote={4: 1},
)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("porch.f", 104.0, "f"),
        ("porch.dht22.air.temp", 21.5, "c"),
        ("porch.dht22.air.humidity", 40.0, None),
        ("porch.gpio.2", 1, None),
        ("porch.gpio.4", 1, None),  # as written after it was read
        ("porch.adc.36", 1234.5, None),
    ],
)
def test_every_kind_of_reading_has_its_value_unit_and_age(text, value, unit) -> None:
    """The age is the poll's, the interval the device's."""
    found = inputs.from_reading(inputs.parse(text), READING)
    assert (found.value, found.unit, found.problem) == (value, unit, "")
    assert (found.at, found.interval_s) == (1000.0, 10.0)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("porch.dht22.dead.temp", "no answer"),
        ("porch.dht22.none.temp", "no DHT22 named none"),
        ("porch.gpio.5", "does not report pin 5"),
        ("porch.adc.39", "wired to nothing"),
        ("porch.adc.32", "add_adc 32"),
    ],
)
def test_what_a_reading_does_not_hold_is_no_value_and_says_why(text, problem) -> None:
    """A failed sensor and one that was never added read differently."""
    found = inputs.from_reading(inputs.parse(text), READING)
    assert found.value is None
    assert problem in found.problem


def test_a_device_that_was_never_read_says_so() -> None:
    """So does one that is not registered yet."""
    assert inputs.from_reading(inputs.parse("attic.f"), None).problem == "attic was never read"


def test_a_name_may_hold_dots_and_words_of_inputs() -> None:
    """What follows the name is recognised from its end."""
    assert inputs.parse("a.gpio.4.f").device == "a.gpio.4"
    assert inputs.parse("porch.lan.gpio.4")[:2] == ("gpio", "porch.lan")
    assert inputs.parse("redis.f").device == "redis"
    assert inputs.parse("redis:x.f") == inputs.Source("redis", key="x.f")


NO_INPUTS = [
    "", "porch", ".f", "porch.", "porch.g", "porch.F", "porch.f ", "porch.gpio", "porch.gpio.",
    "porch.gpio.x", "porch.gpio.-1", "porch.gpio.100", "porch.gpio.٣", "porch.gpio.55",
    "porch.adc.4", "porch.adc.40",
    "porch.dht22.temp", "porch.dht22..temp", "porch.dht22.air", "porch.dht22.air.dew", "-x.f", "a b.f",
    "porch.dht22.a b.temp", "x" * 65 + ".f", "\x1b[31m.f", "redis:", "redis:a#", "redis:#a", "redis:a b",
    "redis:\x1b[31m", "Redis:a", "redis:espnet:devices", "redis:espnet:jobs#b1", "nan", "21.5",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_INPUTS)
def test_what_can_never_have_a_value_is_refused_at_definition(text) -> None:
    """One sentence that says INPUT; EspNet's own keys are not for jobs."""
    with pytest.raises(UsageError, match=r"^INPUT ") as caught:
        inputs.check(text, "espnet:")
    assert str(caught.value).isprintable()
    assert str(caught.value).endswith(".")


def test_foreign_keys_are_allowed_whatever_the_prefix() -> None:
    """Only keys that begin with the prefix are ours; an empty prefix is nobody's."""
    assert inputs.check("redis:house:temp", "espnet:").key == "house:temp"
    assert inputs.check("redis:espnet:devices", "other:").key == "espnet:devices"
    assert inputs.check("redis:house", "").key == "house"


def test_a_renamed_device_renames_the_inputs_that_name_it_and_no_others() -> None:
    """A name that only begins alike, a key of Redis and a sensor of that name stay."""
    for text in ("porch2.f", "a.porch.f", "redis:porch.f", "attic.dht22.porch.temp"):
        assert inputs.renamed(text, "porch", "deck") == text
    assert inputs.renamed("porch.dht22.porch.temp", "porch", "x.y") == "x.y.dht22.porch.temp"


NO_NUMBERS = [
    b"", b"nan", b"inf", b"-inf", b"1e999", b"9" * 5000, b"21,5", b"21_5", b"0x10", b"\xff", b"on", b"[1]",
    b"true", b"null", b"21 5", "٣".encode(),
]  # fmt: skip


@pytest.mark.parametrize("raw", NO_NUMBERS)
def test_what_is_no_finite_number_in_redis_is_no_value(raw) -> None:
    """A string, a hash's field and a JSON object's field are judged alike; the problem is printable."""
    for text, string, fields in (
        ("redis:k", raw, [None, None]),
        ("redis:k#v", None, [raw, b"5"]),
        ("redis:k#v", msgspec.json.encode({"v": raw.decode(errors="replace")}), ValueError()),
    ):
        found = inputs.from_redis(inputs.parse(text), string, fields)
        assert found.value is None
        assert found.problem.isprintable()
        assert len(found.problem) < 100


@pytest.mark.parametrize("raw", [b"21.5", b" 21.5\n", b"+21.5", b"2.15e1"])
def test_numbers_as_programs_print_them_are_read(raw) -> None:
    """With the age that stands beside them, or none."""
    assert inputs.from_redis(inputs.parse("redis:k"), raw, [None, None]).value == 21.5
    found = inputs.from_redis(inputs.parse("redis:k#v"), None, [raw, b"1000"])
    assert (found.value, found.at) == (21.5, 1000)
    found = inputs.from_redis(inputs.parse("redis:k#v"), None, [raw, b"inf"])
    assert (found.value, found.at) == (21.5, None)


def test_a_json_object_gives_its_field_and_its_age() -> None:
    """Numbers and texts of numbers; anything else is no value."""
    source = inputs.parse("redis:k#t")
    found = inputs.from_redis(source, b'{"t": 21.5, "at": 1000}', ValueError())
    assert (found.value, found.at, found.interval_s, found.unit) == (21.5, 1000, None, None)
    for raw in (b"[1]", b"{}", b'{"t":true}', b'{"t":[1]}', b'{"t":1' + b"0" * 400 + b"}", b"nonsense",
                b'{"t":"\xff"}', b'{"t":' + b"[" * 100_000, b"", None):  # fmt: skip
        assert inputs.from_redis(source, raw, ValueError()).value is None


def test_a_key_of_another_type_is_no_value() -> None:
    """A list, or a hash without a field's name: the problem says how to go on."""
    found = inputs.from_redis(inputs.parse("redis:k"), ValueError("WRONGTYPE"), [None, None])
    assert found.value is None
    assert "redis:KEY#FIELD" in found.problem


@given(
    text=st.sampled_from(["redis:k", "redis:k#t"]),
    string=st.one_of(st.none(), st.binary(), st.builds(ValueError)),
    fields=st.one_of(
        st.builds(ValueError), st.lists(st.none() | st.binary(), min_size=2, max_size=2)
    ),
)
def test_nothing_that_others_keep_in_redis_raises(text, string, fields) -> None:
    """Either there is a finite number, or a problem."""
    found = inputs.from_redis(inputs.parse(text), string, fields)
    assert (found.value is None) == bool(found.problem)
