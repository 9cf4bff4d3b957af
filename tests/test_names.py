"""Laws of `espnet.names`: what may be called what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet.config import from_environment, override
from espnet.errors import UsageError
from espnet.names import problem_with_address, problem_with_name, problem_with_tag, split_address


@pytest.mark.parametrize(
    "name", ["porch", "1", "1e3", "True", "None", "Küche", "温室", "a.b#c", "_x", "x" * 64, "🌡"]
)
def test_any_printable_name_without_spaces_will_do(name) -> None:
    """Names are labels: whatever a person can type and read is one."""
    assert problem_with_name(name) is None


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a\tb", "a\u00a0b", "-a", "\x1b", "\udcff", "x" * 65]
)
def test_a_name_that_would_break_a_command_or_a_table_is_refused(name) -> None:
    """Spaces, control characters, half characters and options are not names."""
    assert problem_with_name(name)


@pytest.mark.parametrize(
    "tag",
    ["room:attic", "a", "über:x", "a" * 200, "Etage:2/links", "shard", "shard:b", "shards:a/b"],
)
def test_tags_are_datadog_s(tag) -> None:
    """What Datadog takes, EspNet takes."""
    assert problem_with_tag(tag) is None


@pytest.mark.parametrize(
    "tag", ["shard:", "shard:a/b", "shard:a:b", "shard:ö", "shard:" + "a" * 65]
)
def test_a_device_belongs_to_no_shard_that_no_collector_can_have(tag) -> None:
    """`run --shard` takes the same names; the device would be polled by nobody."""
    assert "names no shard" in str(problem_with_tag(tag))
    with pytest.raises(UsageError):
        override(from_environment({}), {"shard": ("--shard", tag[6:] or "/")})


@pytest.mark.parametrize("tag", ["", "1a", "_a", "a b", "a,b", "a" * 201, "a\n"])
def test_tags_that_datadog_would_change_are_refused(tag) -> None:
    """What Datadog would rewrite or drop is said at once."""
    assert problem_with_tag(tag)


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("192.168.1.7", ("192.168.1.7", 80)),
        ("192.168.1.7:8080", ("192.168.1.7", 8080)),
        ("porch.local", ("porch.local", 80)),
        ("porch.local.", ("porch.local.", 80)),
        ("a-b:1", ("a-b", 1)),
        ("[::1]", ("[::1]", 80)),
        ("[fe80::1%eth0]:65535", ("[fe80::1%eth0]", 65535)),
        ("x" * 63 + ".example", ("x" * 63 + ".example", 80)),
    ],
)
def test_an_address_is_a_host_and_perhaps_a_port(address, parts) -> None:
    """Names, IPv4 and bracketed IPv6 are addresses; port 80 is understood."""
    assert problem_with_address(address) is None
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address",
    [
        *("", "http://a", "a/b", "a:b", "a:", "a:0", "a:65536", "a:-1", "a:١", "a:1:2", "::1"),
        *("[::1", "[::1x:80", "[::1]x:80", "[:80", "[]", "[]:80", "[127.0.0.1]", "[fe80::1%/x]"),
        *("1.2.3", "1.2.3.256", "1.2.3.4.5", "1..", "a..b", ".a", "-a", "a@b", "a#b", "u:p@host"),
        *("a\n", "[fe80::1%\r\nX:y]", "a:" + "9" * 5000),
        *("x" * 64 + ".example", ".".join(["x" * 60] * 5)),
    ],
)
def test_what_no_resolver_or_url_would_take_is_refused(address) -> None:
    """An address that would fail at every poll, or change what is requested, is never stored."""
    assert problem_with_address(address)


@given(st.text(max_size=30) | st.from_regex(r"\[?[a-f0-9:.%]+\]?(:[0-9]+)?", fullmatch=True))
def test_no_text_breaks_the_address_parser(address) -> None:
    """Whatever a person types is an address or a reason."""
    if problem_with_address(address) is None:
        host, port = split_address(address)
        assert host
        assert port is not None
        assert 0 < port < 65536
        assert not set("/@#? \r\n") & set(address)
