"""Laws of `espnet.outlets`: which sinks there are, by which settings."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from espnet import config, outlets
from espnet.config import Config
from espnet.errors import SinkError
from espnet.sinks import Outcome, Sink

#: A sink of one's own, as short as it can be.
GOOD = """
from espnet.sinks import Outcome

class Mine:
    name = "mine"
    window_s = None
    future_s = 600

    def send(self, samples):
        return Outcome(len(samples))
"""


def settings(**environ: str) -> Config:
    return config.from_environment({"ESPNET_DATA": "/data", **environ})


def names(**environ: str) -> list[str]:
    return [sink.name for sink in outlets.build(settings(**environ), io.StringIO())]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module of a user's own; returns its name, which no other test's module has."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str) -> str:
        name = f"own_sink_{tmp_path.name}_{len(list(tmp_path.iterdir()))}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


def refused(word: str) -> str:
    """The sentence that a sink of one's own is refused with."""
    with pytest.raises(SinkError) as caught:
        names(ESPNET_SINKS=word)
    said = str(caught.value)
    assert said.isprintable()
    assert said.endswith((".", "?"))
    return said


# --- which sinks --------------------------------------------------------------------------------


def test_without_a_word_a_key_means_datadog() -> None:
    """Nobody who sets a key has to say more; nobody who sets none has a sink."""
    assert names() == []
    assert names(DATADOG_API_KEY="k") == ["datadog"]
    assert outlets.chosen(settings()) == ()


def test_what_was_chosen_is_what_there_is() -> None:
    """Whatever key is set, in the order in which they were named; none is a choice, too."""
    assert names(DATADOG_API_KEY="k", ESPNET_SINKS="none") == []
    assert names(DATADOG_API_KEY="k", ESPNET_SINKS="console") == ["console"]
    assert names(ESPNET_SINKS="file,dogstatsd,console") == ["file", "dogstatsd", "console"]
    assert names(DATADOG_API_KEY="k", ESPNET_SINKS="console,datadog") == ["console", "datadog"]


def test_every_sink_that_is_named_can_be_built() -> None:
    """And is called what it is called in the settings, which is its group in Redis."""
    for name in config.SINKS:
        built = names(DATADOG_API_KEY="k", ESPNET_SINKS=name)
        assert built == ([] if name == "prometheus" else [name])


def test_prometheus_is_served_and_reads_no_stream() -> None:
    """By its name at the usual address, by an address there; neither makes a reader."""
    assert outlets.prometheus_address(settings()) == ""
    assert outlets.prometheus_address(settings(ESPNET_SINKS="prometheus")) == "127.0.0.1:9469"
    there = settings(ESPNET_SINKS="prometheus,console", ESPNET_PROMETHEUS="[::1]:80")
    assert outlets.prometheus_address(there) == "[::1]:80"
    assert outlets.prometheus_address(settings(ESPNET_PROMETHEUS="8080")) == "127.0.0.1:8080"
    assert names(ESPNET_SINKS="prometheus") == []


def test_datadog_without_a_key_says_which_variable_is_missing() -> None:
    """Whoever names it and has no key is told before anything runs."""
    assert refused("datadog") == "Datadog needs an API key; set DATADOG_API_KEY."


def test_the_console_writes_where_it_is_told() -> None:
    """Only the command line knows where its output is."""
    out = io.StringIO()
    (console,) = outlets.build(settings(ESPNET_SINKS="console"), out)
    assert console.send([]) == Outcome(0)
    assert out.getvalue() == ""


# --- one's own ----------------------------------------------------------------------------------


def test_a_sink_of_ones_own_stands_beside_the_others(module: Callable[[str], str]) -> None:
    """A module on Python's path and a class in it: no registration, no plug-in list."""
    word = f"{module(GOOD)}:Mine"
    built = outlets.build(settings(ESPNET_SINKS=f"file,{word}"), io.StringIO())
    assert [sink.name for sink in built] == ["file", "mine"]
    mine: Sink = built[1]
    assert (mine.window_s, mine.future_s) == (None, 600)
    assert mine.send([]) == Outcome(0)


def test_two_sinks_of_one_name_would_share_their_books(module: Callable[[str], str]) -> None:
    """Two of one's own, or one's own and one that comes with EspNet: each needs its name."""
    one, two = module(GOOD), module(GOOD)
    assert "Two sinks are called mine" in refused(f"{one}:Mine,{two}:Mine")
    other = module(GOOD.replace('"mine"', '"file"'))
    assert "Two sinks are called file" in refused(f"{other}:Mine,file")


def test_a_module_that_is_not_there_is_asked_for_by_its_name() -> None:
    """Its folder is not on Python's path, or it is a typing error; a package's part, too."""
    assert refused("no_such_module:Mine") == (
        "There is no module no_such_module for the sink no_such_module:Mine; "
        "is its folder in PYTHONPATH, and is it spelt so?"
    )
    assert "There is no module espnet.nowhere for" in refused("espnet.nowhere:Mine")
    assert "There is no module nowhere.at.all for" in refused("nowhere.at.all:Mine")


def test_a_module_that_lacks_a_library_is_its_authors_business(
    module: Callable[[str], str],
) -> None:
    """The module is there, and what it imports is not: the traceback names the line."""
    word = f"{module('import no_such_library')}:Mine"
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        names(ESPNET_SINKS=word)


@pytest.mark.parametrize("text", ["", "Mine = 3", "def Mine(): return 3", "mine = 1"])
def test_a_class_that_is_not_there_is_asked_for_by_its_name(
    module: Callable[[str], str], text: str
) -> None:
    """What is no class is none, whatever it is called."""
    name = module(text)
    assert refused(f"{name}:Mine") == (
        f"The module {name} has no class Mine for the sink {name}:Mine; is it spelt so?"
    )


@pytest.mark.parametrize(
    ("before", "after", "lacks"),
    [
        ('name = "mine"', "", "name"),
        ('"mine"', "7", "name"),
        ("window_s = None", "", "window_s"),
        ("window_s = None", "window_s = '1h'", "window_s"),
        ("future_s = 600", "", "future_s"),
        ("future_s = 600", "future_s = []", "future_s"),
        ("def send", "def sent", "send"),
        (GOOD[GOOD.index("class") :], "class Mine: send = 1", "name and window_s and future_s and send"),
    ],
)  # fmt: skip
def test_what_a_sink_lacks_is_named(
    module: Callable[[str], str], before: str, after: str, lacks: str
) -> None:
    """All of it at once, and where an example is: nobody finds out at three in the morning."""
    word = f"{module(GOOD.replace(before, after))}:Mine"
    assert refused(word) == f"The sink {word} lacks a good {lacks}; docs/sinks.md shows one."


@pytest.mark.parametrize(
    "name", ["", "Mine", "my-sink", "a b", "1st", "_x", "a" * 33, "ñ", "a\n", "mine:x", "\x1b[31m"]
)
def test_a_sink_is_called_what_a_key_and_a_label_may_be_called(
    module: Callable[[str], str], name: str
) -> None:
    """Its name is in Redis's keys, in Prometheus' labels and in what people type."""
    word = f"{module(GOOD.replace(repr('mine').replace(chr(39), chr(34)), repr(name)))}:Mine"
    assert f"The sink {word} is called {name!r}; a name is a small letter" in refused(word)


@pytest.mark.parametrize("name", ["history", "none", "prometheus"])
def test_a_name_that_means_something_else_is_taken(module: Callable[[str], str], name: str) -> None:
    """The history's group would lose what the sink reads, and the other way round."""
    word = f"{module(GOOD.replace('mine', name))}:Mine"
    assert f"none of {', '.join(('history', 'none', 'prometheus'))}" in refused(word)


def test_what_its_constructor_raises_is_its_authors_business(module: Callable[[str], str]) -> None:
    """A `SinkError` is the sentence that it wants to be; everything else is a traceback, as any bug."""
    broken = GOOD.replace('name = "mine"', 'def __init__(self): raise KeyError("INFLUX_URL")')
    with pytest.raises(KeyError, match="INFLUX_URL"):
        names(ESPNET_SINKS=f"{module(broken)}:Mine")
    asking = GOOD.replace('name = "mine"', 'def __init__(self, url): self.name = "mine"')
    with pytest.raises(TypeError, match="url"):
        names(ESPNET_SINKS=f"{module(asking)}:Mine")
    missing = GOOD.replace('name = "mine"', "def __init__(self): self.name = self.nothing")
    with pytest.raises(AttributeError, match="nothing"):
        names(ESPNET_SINKS=f"{module(missing)}:Mine")
    polite = "from espnet.errors import SinkError" + GOOD.replace(
        'name = "mine"', 'def __init__(self): raise SinkError("Set INFLUX_URL.")'
    )
    assert refused(f"{module(polite)}:Mine") == "Set INFLUX_URL."
