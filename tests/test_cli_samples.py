"""Laws of the words about samples: what they show, what they do, and what they say when they cannot."""

import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
import redis
from test_store import queue
from test_store_samples import accepted, grow_old, letter

from espnet.cli import main
from espnet.cli.samples import SPOKE_S
from espnet.clock import SystemClock
from espnet.samples import Sample, SinkState
from espnet.sinks import Outcome, Verdict
from espnet.store import Fate, Store

HERE = __name__
WORDS = ("init_consumers", "upload_queued_metrics", "process_backlog")


class Willing:
    """A sink that takes everything, but for samples of a ``value`` that it does not like."""

    name = "willing"
    window_s: float | None = None
    future_s: float | None = None
    answer = Outcome(0, Verdict.BUSY, "The far end is away.", 1)
    is_away = False
    dislikes: tuple[float, ...] = ()
    got: ClassVar[list[Sample]] = []

    def send(self, samples: Sequence[Sample]) -> Outcome:
        if type(self).is_away:
            return self.answer._replace(tried=len(samples))
        if any(sample.value in type(self).dislikes for sample in samples):
            return Outcome(0, Verdict.BAD, "I do not like that.", len(samples))
        type(self).got += samples
        return Outcome(len(samples))


class Other(Willing):
    """The same, under another name and with another fate."""

    name = "other"
    got: ClassVar[list[Sample]] = []


class Denied(Willing):
    name = "denied"
    is_away = True
    answer = Outcome(0, Verdict.DENIED, "The far end answered 403: who are you?", 1, status=403)


@pytest.fixture(autouse=True)
def fresh_sinks(settings: None) -> None:
    for sink in (Willing, Other):
        sink.is_away, sink.dislikes, sink.got, sink.window_s = False, (), [], None


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the sinks that the commands go by."""

    def choose(*sinks: type[Willing]) -> None:
        monkeypatch.setenv("ESPNET_SINKS", ",".join(f"{HERE}:{each.__name__}" for each in sinks))

    return choose


Say = Callable[..., str]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs a command; what it printed, or the sentence that it ended with where ``code`` is not 0."""

    def run(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(words) == code, capsys.readouterr().err
        captured = capsys.readouterr()
        if not code:
            return captured.out
        assert captured.out == ""
        assert captured.err.startswith("espcli: ")
        assert captured.err.endswith((".\n", "?\n"))
        assert captured.err[:-1].isprintable()
        return captured.err[len("espcli: ") : -1]

    return run


@pytest.fixture
def tell(say: Say) -> Callable[..., Any]:
    """What a command tells a program."""
    return lambda *words: json.loads(say(*words, "--json"))


def note(store: Store, sink: str, age_s: float, state: str = "ok", reason: str = "") -> None:
    at = SystemClock().now() - age_s
    store.note_sink(
        sink,
        SinkState(state=state, at=at, since=at - 5, uploader="collector@attic:1", reason=reason),  # type: ignore[arg-type]
    )


def dead(store: Store, sink: str, count: int = 1) -> None:
    """So many dead letters of a sink, of samples that are 1, 2, 3 …"""
    store.join(sink, 0)
    for number in range(count):
        queue(store, 1)
        (entry,) = store.take(sink, "me", 1, newest_first=True)
        store.settle(sink, "me", [Fate(entry, letters=(letter(number + 1),))])


# --- uploading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("word", WORDS)
def test_without_a_sink_the_sentence_says_how_to_choose_one(
    store: Store, word: str, say: Say
) -> None:
    """And that nothing is lost meanwhile; nothing was touched."""
    queue(store, 1)
    said = say(word, code=1)
    assert "DATADOG_API_KEY" in said
    assert "ESPNET_SINKS to datadog, dogstatsd, file or console" in said
    assert "samples wait in Redis" in said
    assert store.ledger().sinks == ()


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(
    ("sinks", "code", "said"),
    [
        ("none", 1, "No sink is chosen"),
        ("prometheus", 1, "No sink is chosen that reads samples"),
        ("datadog", 1, "Datadog needs an API key; set DATADOG_API_KEY."),
        ("datadgo", 2, "ESPNET_SINKS: there is no sink 'datadgo'"),
        ("no_such_module:Mine", 1, "There is no module no_such_module"),
        (f"{HERE}:Nobody", 1, f"The module {HERE} has no class Nobody"),
        (f"{HERE}:Sample", 1, "TypeError"),
        (f"{HERE}:Willing,{HERE}:Willing", 0, ""),
    ],
)
def test_a_sink_that_cannot_be_is_said_before_anything_is_sent(
    store: Store, word: str, sinks: str, code: int, said: str, say: Say, monkeypatch: Any
) -> None:
    """A typing error in the settings costs nothing but the command."""
    monkeypatch.setenv("ESPNET_SINKS", sinks)
    queue(store, 1)
    if said == "TypeError":  # a class that wants arguments is its author's business
        with pytest.raises(TypeError):
            main([word])
    elif code:
        assert said in say(word, code=code)
    else:
        say(word)
    assert bool(store.ledger().sinks) == (code == 0)


def test_init_consumers_says_which_sinks_read_now(
    store: Store, choose: Callable[..., None], say: Say, tell: Callable[..., Any]
) -> None:
    """Once they are new, then they are not; they begin with the oldest."""
    choose(Willing, Other)
    queue(store, 3)
    store.join("other", 0)
    assert say("init_consumers") == (
        "The sink willing reads the samples now.\nThe sink other reads the samples already.\n"
    )
    assert tell("init_consumers") == [
        {"sink": "willing", "created": False},
        {"sink": "other", "created": False},
    ]
    assert store.ledger().books("willing").queued == 3


@pytest.mark.parametrize("word", WORDS[1:])
def test_an_upload_says_what_became_of_the_samples(
    store: Store, choose: Callable[..., None], say: Say, tell: Callable[..., Any], word: str
) -> None:
    """For each sink: accepted, too old, refused, and what is left."""
    choose(Willing, Other)
    queue(store, 1)
    assert say(word) == (
        "willing: 1 sample was accepted, 0 are queued.\nother: 1 sample was accepted, 0 are queued.\n"
    )
    queue(store, 3)
    Willing.dislikes, Other.window_s = (1.0,), 60.0
    assert say(word) == (
        "willing: 2 samples were accepted, 0 are queued, 1 refused (see `espcli dead_letters`).\n"
        "other: 0 samples were accepted, 0 are queued, 3 too old.\n"
    )
    assert [sample.value for sample in Willing.got] == [0.0, 0.0, 2.0]
    queue(store, 2)
    Willing.dislikes = ()
    assert tell(word) == [
        {"sink": "willing", "accepted": 2, "expired": 0, "dead": 0, "queued": 0},
        {"sink": "other", "accepted": 0, "expired": 2, "dead": 0, "queued": 0},
    ]


@pytest.mark.parametrize("word", WORDS[1:])
@pytest.mark.parametrize("order", [(Denied, Willing), (Willing, Denied)])
def test_a_sink_that_fails_does_not_keep_the_next_one_from_its_samples(
    store: Store, choose: Callable[..., None], say: Say, word: str, order: Any
) -> None:
    """Both are tried, in whatever order; what failed is said first, with the reason and what is kept."""
    choose(*order)
    queue(store, 2)
    assert say(word, code=1) == (
        "denied: 0 samples were accepted, 2 are kept: The far end answered 403: who are you? "
        "willing: 2 samples were accepted, 0 are queued."
    )
    assert (store.ledger().books("denied").queued, store.ledger().books("willing").queued) == (2, 0)
    assert len(Willing.got) == 2


def test_all_problems_are_said_at_once(store: Store, choose: Callable[..., None], say: Say) -> None:
    """Nobody mends one sink to learn about the next."""
    choose(Denied, Other)
    Other.is_away = True
    queue(store, 1)
    said = say("upload_queued_metrics", code=1)
    assert "denied: 0 samples were accepted, 1 is kept: The far end answered 403" in said
    assert "other: 0 samples were accepted, 1 is kept: The far end is away." in said


def test_a_backlog_takes_what_others_left(
    store: Store, raw: redis.Redis, choose: Callable[..., None], say: Say
) -> None:
    """At once what was handed back and what was abandoned; what somebody holds stays with him."""
    choose(Willing)
    store.join("willing", 0)
    queue(store, 1, 2, 4)
    one, two, _ = (store.take("willing", who, 1)[0] for who in ("gone", "left", "living"))
    grow_old(raw, "willing", one)
    store.leave("willing", "left")
    assert two.samples == 2
    assert say("process_backlog") == "willing: 3 samples were accepted, 4 are queued.\n"
    assert [row["consumer"] for row in store.pending("willing")] == ["living"]


def test_a_console_sink_does_not_write_into_the_answer(
    store: Store, say: Say, tell: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a program reads is the answer alone."""
    monkeypatch.setenv("ESPNET_SINKS", "console")
    queue(store, 2)
    assert [row["accepted"] for row in tell("upload_queued_metrics")] == [2]


# --- looking ------------------------------------------------------------------------------------


def test_xinfo_shows_the_equation_of_every_sink(
    store: Store, say: Say, tell: Callable[..., Any]
) -> None:
    """A line a sink for people, every number for programs."""
    store.join("dd", 0)
    store.join("file", 0)
    queue(store, 2, 3)
    one, _ = store.take("dd", "me", 9)
    store.settle("dd", "me", accepted(one))
    store.count_repeated("dd", 2)
    lines = say("xinfo").splitlines()
    assert lines[0] == "length: 2"
    assert lines[3].startswith("queue: 5 collected, 5 queued in 0 kB, 0 dropped, 0 refused")
    assert lines[4:] == [
        "sink dd: 5 collected = 2 accepted + 0 expired + 0 dead + 0 dropped + 3 queued; "
        "2 perhaps sent twice",
        "sink file: 5 collected = 0 accepted + 0 expired + 0 dead + 0 dropped + 5 queued",
    ]
    info = tell("xinfo")
    assert info["queue"] == {
        "collected": 5, "queued": 5, "bytes": store.ledger().queue.bytes, "refused": 0, "dropped": 0
    }  # fmt: skip
    assert info["sinks"]["dd"]["accepted"] == 2
    assert [group["name"] for group in info["groups"]] == ["dd", "file"]


def test_xpending_shows_who_holds_what(store: Store, say: Say, tell: Callable[..., Any]) -> None:
    """And says so when nobody does."""
    assert tell("xpending") == []
    store.join("dd", 0)
    queue(store, 1, 1)
    store.take("dd", "here", 1)
    store.take("dd", "gone", 1)
    store.leave("dd", "gone")
    assert [line.split() for line in say("xpending").splitlines()] == [
        ["sink", "consumer", "entries", "silent"],
        ["dd", "here", "1", "0", "s"],
        ["dd", "nobody", "1", "24", "h"],
    ]
    assert set(tell("xpending")[0]) == {"sink", "consumer", "entries", "idle_s"}


def test_sinks_shows_state_books_and_problem(
    store: Store, say: Say, tell: Callable[..., Any]
) -> None:
    """One line a sink; of one that never said anything, that it is new."""
    assert tell("sinks") == []
    store.join("dd", 0)
    queue(store, 2)
    dead(store, "file")
    note(store, "file", 180, "paused", "It answered 403.")
    head, *rows = say("sinks", "show").splitlines()
    assert head.split() == [
        *("sink", "state", "seen", "collected", "accepted"),
        *("expired", "dead", "dropped", "queued", "problem"),
    ]
    assert [row.split() for row in rows] == [
        ["dd", "new", "–", "3", "0", "0", "0", "0", "3"],
        [
            "file",
            "paused",
            "3",
            "min",
            "ago",
            "3",
            "0",
            "0",
            "1",
            "0",
            "2",
            "It",
            "answered",
            "403.",
        ],
    ]
    assert [row["sink"] for row in tell("sinks")] == ["dd", "file"]
    assert [row["uploader"] for row in tell("sinks", "show", "file")] == ["collector@attic:1"]


# --- forgetting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("age_s", [-30, 0, SPOKE_S - 5])
def test_a_sink_that_is_in_use_is_not_forgotten(store: Store, say: Say, age_s: float) -> None:
    """Who spoke within two minutes uploads still, also by a clock that is ahead: it is said who."""
    store.join("file", 0)
    queue(store, 2)
    note(store, "file", age_s)
    said = say("sinks", "forget", "file", code=1)
    assert said.startswith("The sink file is in use: collector@attic:1 spoke ")
    assert "run it without file" in said
    assert store.ledger().books("file").queued == 2


@pytest.mark.parametrize("age_s", [None, SPOKE_S + 1])
def test_an_old_sink_is_forgotten_with_all_that_is_its(
    store: Store, say: Say, tell: Callable[..., Any], age_s: float | None
) -> None:
    """Nobody spoke for two minutes, or ever; others keep their samples."""
    store.join("dd", 0)
    dead(store, "file")
    if age_s is not None:
        note(store, "file", age_s)
    told = tell("sinks", "forget", "file")
    assert (told["forgotten"], told["books"]["dead"]) == ("file", 1)
    assert [sink.name for sink in store.ledger().sinks] == ["dd"]
    assert store.letters() == []
    assert say("sinks", "forget", "dd") == (
        "The sink dd is forgotten. Nobody reads the samples now: they wait for the next sink.\n"
    )
    assert store.ledger().queue.queued == 1
    assert "No sink 'dd' has read samples" in say("sinks", "forget", "dd", code=1)


# --- dead letters -------------------------------------------------------------------------------


def test_dead_letters_are_shown_with_their_answers(
    store: Store, say: Say, tell: Callable[..., Any]
) -> None:
    """Of all sinks or of one; the whole sample is there for a program."""
    assert tell("dead_letters") == tell("dead_letters", "show") == []
    dead(store, "dd")
    dead(store, "file", 2)
    head, *rows = say("dead_letters").splitlines()
    assert head.split() == ["sink", "metric", "value", "seen", "tags", "answer"]
    assert [row.split()[0] for row in rows] == ["dd", "file", "file"]
    assert all(row.endswith("name:x  It is not liked.") for row in rows)
    (told,) = tell("dead_letters", "show", "dd")
    sample = letter(1).sample
    assert (told["metric"], told["value"], told["at"]) == (sample.metric, sample.value, sample.at)
    assert (told["tags"], told["answer"]) == (["name:x"], "It is not liked.")


def test_dead_letters_are_given_up_by_a_persons_word(
    store: Store, say: Say, tell: Callable[..., Any]
) -> None:
    """All of them, or those of one sink; the books say dropped."""
    dead(store, "dd")
    dead(store, "file", 2)
    assert say("dead_letters", "drop", "dd") == "1 dead letter was given up.\n"
    assert tell("dead_letters", "drop") == {"dropped": 2}
    assert say("dead_letters", "drop") == "0 dead letters were given up.\n"
    books = store.ledger().books("file")
    assert (books.dead, books.dropped) == (0, 2)


def test_dead_letters_are_sent_once_more(
    store: Store, choose: Callable[..., None], say: Say
) -> None:
    """What the sink takes now is accepted, what it refuses stays a dead letter, what is too old ends."""
    choose(Willing, Other)
    assert say("dead_letters", "retry") == "There are no dead letters.\n"
    dead(store, "willing", 3)
    dead(store, "other")
    Willing.dislikes, Other.window_s = (2.0,), 60.0
    assert say("dead_letters", "retry") == (
        "2 dead letters were accepted, 1 refused again, 1 too old.\n"
    )
    assert [row.letter.sample.value for row in store.letters()] == [2.0]
    assert [sample.value for sample in Willing.got] == [1.0, 3.0]
    Willing.dislikes = ()
    assert say("dead_letters", "retry", "willing") == (
        "1 dead letter was accepted, 0 refused again, 0 too old.\n"
    )
    assert all(sink.books.is_balanced for sink in store.ledger().sinks)


def test_a_sink_that_does_not_answer_keeps_its_dead_letters_and_only_its(
    store: Store, choose: Callable[..., None], say: Say
) -> None:
    """The others are sent; the sentence says how many, what stays, and why."""
    choose(Denied, Willing)
    dead(store, "denied")
    dead(store, "willing")
    assert say("dead_letters", "retry", code=1) == (
        "1 dead letter was accepted, 0 refused again, 0 too old; the others stay as they are: "
        "denied: The far end answered 403: who are you?"
    )
    assert [row.sink for row in store.letters()] == ["denied"]


def test_dead_letters_of_a_sink_that_is_not_chosen_stay(
    store: Store, choose: Callable[..., None], say: Say
) -> None:
    """The sentence says which sink is missing, and that others can be retried without it."""
    choose(Willing)
    dead(store, "willing")
    dead(store, "file")
    said = say("dead_letters", "retry", code=1)
    assert said.startswith(
        "The sink file has dead letters and is not chosen now; name it in ESPNET_SINKS"
    )
    assert "retry SINK" in said
    assert len(store.letters()) == 2
    assert "1 dead letter was accepted" in say("dead_letters", "retry", "willing")


def test_redis_that_is_not_there_is_one_sentence(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 3, whatever the word; without the password."""
    monkeypatch.setenv("REDIS_URL", "redis://:sesame@127.0.0.1:1")
    monkeypatch.setenv("ESPNET_SINKS", f"{HERE}:Willing")
    for word in (*WORDS, "xinfo", "xpending", "sinks", "dead_letters", "dead_letters retry"):
        said = say(*word.split(), code=3)
        assert "127.0.0.1:1" in said
        assert "sesame" not in said


#: What was typed, the exit code, and what the sentence says to do.
WRONG = {
    "sinks nope": (2, "knows show and forget"),
    "sinks forget": (2, "espcli sinks forget NAME"),
    "sinks forget nope": (1, "`espcli sinks` lists"),
    "sinks show nope": (1, "`espcli sinks` lists"),
    "sinks show a b": (2, "espcli sinks [ACTION] [NAME]"),
    "sinks --all": (2, "espcli sinks [ACTION] [NAME]"),
    "dead_letters nope": (2, "knows show, retry and drop"),
    "dead_letters retry nope": (1, "`espcli sinks` lists"),
    "dead_letters drop nope": (1, "`espcli sinks` lists"),
    "dead_letters show a b": (2, "espcli dead_letters [ACTION] [SINK]"),
    "dead_letters --all": (2, "espcli dead_letters [ACTION] [SINK]"),
    "dead_leters": (2, "did you mean `espcli dead_letters`?"),
    "xinfo samples": (2, "espcli xinfo"),
    "xpending --sink a": (2, "espcli xpending"),
    "process_backlog 5": (2, "espcli process_backlog"),
    "init_consumers file": (2, "espcli init_consumers"),
    "upload_queued_metrics --now": (2, "espcli upload_queued_metrics"),
    "run --sinks": (2, "[--sinks SINKS]"),
    "run --sinks ,": (2, "write none for none"),
    "run --sinks fiel": (2, "choose among datadog, dogstatsd, prometheus, file, console"),
    "run --sinks none,file": (2, "leave out the others"),
    "run --sinks datadog": (1, "set DATADOG_API_KEY"),
    "run --sinks nowhere:Sink": (1, "PYTHONPATH"),
    "run --sinks os:Sink": (1, "is it spelt so?"),
    "run --prometheus here": (2, "an address such as 127.0.0.1:9469"),
    "run --prometheus 99999": (2, "between 1 and 65535"),
    "run --anyway=yes": (2, "takes no value"),
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_words_are_one_sentence_that_goes_on(store: Store, say: Say, line: str) -> None:
    """Nothing on stdout, nothing begins, and the sentence says what would have been right."""
    code, advice = WRONG[line]
    assert advice in say(*line.split(), code=code)
    assert store.ledger().sinks == ()
