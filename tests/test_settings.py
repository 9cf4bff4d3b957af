"""What a board's settings may say."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet.errors import UsageError
from espnet.settings import MAX_BYTES, BadSettings, encode, of, parse, shown, unanswered

SECRET = "correct horse battery"
WHOLE: dict[str, Any] = {
    "hostname": "porch",
    "names": ["porch.example.org"],
    "wifi": [{"ssid": "home", "password": SECRET}, {"ssid": "g ä", "password": ""}],
    "address": {
        "ip": "192.168.1.20",
        "mask": "255.255.255.0",
        "gateway": "192.168.1.1",
        "dns": "9.9.9.9",
    },
    "country": "AT",
    "zone": "Europe/Vienna",
    "watchdog_s": 60,
    "ap": {"password": SECRET},
    "ntp": "pool.ntp.org",
    "pins": {"4": {"safe": "high", "pull": "up"}, "34": {"pull": "none"}, "0": {}},
}


def raw(**changes: Any) -> bytes:
    return json.dumps(WHOLE | changes).encode()


def test_what_is_right_goes_to_the_board_as_it_was_written() -> None:
    """Every field arrives, and nothing is added to it."""
    assert json.loads(encode(parse(raw()))) == WHOLE
    assert json.loads(encode(parse(b"{}"))) == {}
    assert json.loads(encode(parse(raw(address="dhcp", ntp="")))) == {
        **WHOLE,
        "address": "dhcp",
        "ntp": "",
    }


def test_what_a_board_shows_can_be_sent_back() -> None:
    """True keeps a password, False says that the network is open."""
    seen = {"wifi": [{"ssid": "a", "password": True}, {"ssid": "b", "password": False}]}
    seen["ap"] = {"password": True}  # type: ignore[assignment]
    wifi = [{"ssid": "a", "password": True}, {"ssid": "b", "password": ""}]
    assert json.loads(encode(of(seen))) == {"wifi": wifi, "ap": {"password": True}}


def test_a_password_that_is_missing_is_asked_for() -> None:
    """And nothing is sent before it was."""
    settings = parse(b'{"wifi": [{"ssid": "a", "password": ""}, {"ssid": "b"}], "ap": {}}')
    assert unanswered(settings) == ["wifi[1].password", "ap.password"]
    with pytest.raises(BadSettings, match=r"wifi\[1\]\.password is missing"):
        encode(settings)


def test_passwords_do_not_show() -> None:
    """Not to a person, not in a traceback."""
    settings = parse(raw())
    assert shown(settings)["wifi"] == [
        {"ssid": "home", "password": True},
        {"ssid": "g ä", "password": False},
    ]
    assert shown(settings)["ap"] == {"password": True}
    assert SECRET not in repr(settings) + str(shown(settings))


LONG = "x" * 64
STATIC = WHOLE["address"]
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("hostname", {"hostname": ""}),
    ("hostname", {"hostname": "-porch"}),
    ("hostname", {"hostname": "porch-"}),
    ("hostname", {"hostname": "po rch"}),
    ("hostname", {"hostname": "pörch"}),
    ("hostname", {"hostname": "porch\n"}),
    ("hostname", {"hostname": "x" * 33}),
    ("hostname", {"hostname": None}),
    ("hostname", {"hostname": 5}),
    ("names", {"names": "porch.lan"}),
    ("names", {"names": [f"n{i}.lan" for i in range(9)]}),
    ("names[0]", {"names": ["Porch.lan"]}),
    ("names[1]", {"names": ["porch.lan", "a..b"]}),
    ("names[0]", {"names": [""]}),
    ("wifi", {"wifi": [{"ssid": f"n{i}", "password": ""} for i in range(9)]}),
    ("wifi", {"wifi": {"ssid": "home", "password": SECRET}}),
    ("wifi[0]", {"wifi": [{"password": SECRET}]}),
    ("wifi[0]", {"wifi": [{"ssid": "a", "password": SECRET, "key": SECRET}]}),
    ("wifi[0].ssid", {"wifi": [{"ssid": "", "password": SECRET}]}),
    ("wifi[0].ssid", {"wifi": [{"ssid": "ä" * 17, "password": SECRET}]}),
    ("wifi[0].ssid", {"wifi": [{"ssid": "a\0", "password": SECRET}]}),
    ("wifi[1].ssid", {"wifi": [{"ssid": "a", "password": SECRET}, {"ssid": "a", "password": ""}]}),
    ("wifi[0].password", {"wifi": [{"ssid": "a", "password": "7 chars"}]}),
    ("wifi[0].password", {"wifi": [{"ssid": "a", "password": LONG}]}),
    ("wifi[0].password", {"wifi": [{"ssid": "a", "password": "ä" * 40}]}),
    ("wifi[0].password", {"wifi": [{"ssid": "a", "password": "a\tb" * 5}]}),
    ("wifi[0].password", {"wifi": [{"ssid": "a", "password": 12345678}]}),
    ("wifi[0].password", {"wifi": [{"ssid": "a", "password": None}]}),
    ("address", {"address": "static"}),
    ("address", {"address": ""}),
    ("address", {"address": {"ip": "192.168.1.20"}}),
    ("address.ip", {"address": STATIC | {"ip": "192.168.1.256"}}),
    ("address.ip", {"address": STATIC | {"ip": "192.168.1.255"}}),
    ("address.ip", {"address": STATIC | {"ip": "192.168.1.0"}}),
    ("address.ip", {"address": STATIC | {"ip": "fe80::1"}}),
    ("address.mask", {"address": STATIC | {"mask": "255.0.255.0"}}),
    ("address.mask", {"address": STATIC | {"mask": "0.0.0.255"}}),
    ("address.mask", {"address": STATIC | {"mask": "255.255.255.255"}}),
    ("address.gateway", {"address": STATIC | {"gateway": "192.168.2.1"}}),
    ("address.dns", {"address": STATIC | {"dns": "dns.example.org"}}),
    ("country", {"country": "at"}),
    ("country", {"country": "AUT"}),
    ("zone", {"zone": "Mars/Olympus"}),
    ("zone", {"zone": "../etc/passwd"}),
    ("zone", {"zone": "E" * 41}),
    ("watchdog_s", {"watchdog_s": 9}),
    ("watchdog_s", {"watchdog_s": 601}),
    ("watchdog_s", {"watchdog_s": 30.5}),
    ("watchdog_s", {"watchdog_s": "30"}),
    ("watchdog_s", {"watchdog_s": True}),
    ("ap.password", {"ap": {"password": ""}}),
    ("ap.password", {"ap": {"password": False}}),
    ("ap.password", {"ap": {"password": "short"}}),
    ("ap", {"ap": True}),
    ("ntp", {"ntp": "time server"}),
    ("ntp", {"ntp": "1.2.3.400"}),
    ("ntp", {"ntp": None}),
    ("pins", {"pins": [4]}),
    ("pins.…", {"pins": {"04": {}}}),
    ("pins.…", {"pins": {"four": {}}}),
    ("pins.55", {"pins": {"55": {}}}),
    ("pins.6", {"pins": {"6": {"safe": "low"}}}),
    ("pins.1", {"pins": {"1": {"safe": "low"}}}),
    ("pins.4.safe", {"pins": {"4": {"safe": "on"}}}),
    ("pins.4.pull", {"pins": {"4": {"pull": "high"}}}),
    ("pins.34.safe", {"pins": {"34": {"safe": "low"}}}),
    ("pins.34.pull", {"pins": {"34": {"pull": "up"}}}),
    ("pins[]", {"pins": {"4": {"level": 1}}}),
    ("", {"wlan": []}),
    ("", {"hostname\x1b[31m": "porch"}),
]


@pytest.mark.parametrize(("field", "changes"), WRONG)
def test_what_no_board_takes_is_refused_by_its_field(field: str, changes: dict[str, Any]) -> None:
    """One printable sentence, which repeats no password."""
    with pytest.raises(BadSettings) as caught:
        parse(raw(**changes))
    assert caught.value.field == field
    said = str(caught.value)
    assert said.isprintable()
    assert said.startswith(field or "settings.json ")
    assert said.endswith(".")
    for secret in (SECRET, LONG, "7 chars", "short", "12345678"):
        assert secret not in said


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"{", b'{"a": }', b"\xff", b"[" * 5000, b"\0"]
)
def test_what_is_not_an_object_is_refused(text: bytes) -> None:
    """Whatever the bytes are, they are refused with a sentence."""
    with pytest.raises(BadSettings, match=r"^settings\.json (is|lacks|has) "):
        parse(text)


def test_what_has_no_room_on_the_board_is_not_sent() -> None:
    """Each field may be right, and all of them too long."""
    names = [("x" * 60 + ".") * 3 + f"n{i}" for i in range(8)]
    wifi = [{"ssid": f"{i}" + "s" * 31, "password": "p" * 63} for i in range(8)]
    with pytest.raises(BadSettings, match=f"room for {MAX_BYTES:,}"):
        encode(parse(raw(names=names, wifi=wifi)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(WHOLE)), JSON))
def test_nothing_gets_through_half(changes: dict[str, Any]) -> None:
    """Whatever the fields hold: they are refused with a sentence, or are what the board will be sent."""
    try:
        sent = encode(of(WHOLE | changes))
    except UsageError as error:
        sent, said = b"", str(error)
    else:
        said = ""
    assert said.isprintable()
    assert bool(said) != bool(sent)
    if sent:
        assert len(sent) <= MAX_BYTES
        assert encode(parse(sent)) == sent
        msgspec.json.decode(sent)
