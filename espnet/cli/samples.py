"""The words about samples: what waits, who reads it, what became of it. The names are those of 2021."""

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from espnet.cli import parse
from espnet.cli.act import Words, verb
from espnet.cli.render import Lines, Records, Shown
from espnet.cli.session import Session
from espnet.errors import SinkError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from espnet.samples import Books, Queue
    from espnet.sinks import Sink
    from espnet.store import Letter, SinkBooks

#: A sink is in use while an uploader's latest word is not older than this, in seconds.
SPOKE_S = 120.0
#: Dead letters that are retried at once: some requests, even if each of them is refused again.
_RETRIES = 500


class SampleWords(Words):
    """The stream of samples, its sinks, and their books."""

    _session: Session

    @verb
    def init_consumers(self) -> Shown:
        """Makes the chosen sinks readers of the queued samples.

        They begin with the oldest. `run` does this by itself.
        """
        session = self._session
        joined = {sink.name: session.store.join(sink.name, session.now) for sink in _sinks(session)}
        return Shown(
            [{"sink": name, "created": created} for name, created in joined.items()],
            "\n".join(
                f"The sink {name} reads the samples {'now' if created else 'already'}."
                for name, created in joined.items()
            ),
        )

    @verb
    def upload_queued_metrics(self) -> Shown:
        """Sends the queued samples to the sinks now; says what became of them.

        `run` does this every 15 seconds. What is not accepted stays queued.
        """
        return _upload(self._session)

    @verb
    def process_backlog(self) -> Shown:
        """Sends what waits, and what uploaders that are gone had left.

        The newest go first where the oldest wait for long. What an uploader holds that fell silent
        less than a minute ago stays with it until then.
        """
        return _upload(self._session)

    @verb
    def xinfo(self) -> Lines:
        """Shows the sample stream: its length, its readers, its books.

        For each sink collected = accepted + expired + dead + dropped + queued, in samples; refused
        were not numbers and never counted as collected. length counts entries, one a poll.
        """
        store = self._session.store
        stream, ledger = store.stream_info(), store.ledger()
        return Lines(
            stream
            | {"queue": msgspec.to_builtins(ledger.queue)}
            | {"sinks": {s.name: msgspec.to_builtins(s.books) for s in ledger.sinks}},
            "" if ledger.queue.collected else "No samples yet: `espcli run` polls the boards.",
            {key: value for key, value in stream.items() if key != "groups"}
            | {"queue": _queue(ledger.queue)}
            | {f"sink {s.name}": _equation(s.books) for s in ledger.sinks},
        )

    @verb
    def xpending(self) -> Records:
        """Lists who holds entries that are not settled yet, for each sink.

        entries   polls that were taken and not settled
        silent    for how long one of them lies there at most; after a minute anybody may take it
                  over, and what was handed back is anybody's at once
        """
        store = self._session.store
        rows = [
            {"sink": sink.name, **row}
            for sink in store.ledger().sinks
            for row in store.pending(sink.name)
        ]
        return Records(
            rows, ("sink", "consumer", "entries", "idle_s"), "" if rows else "Nobody holds entries."
        )

    @verb
    def sinks(self, action: str = "show", name: str = "") -> Any:
        """Lists the sinks with their books; forgets an old one.

        ACTION   show (the default), or forget: the sink's books, its dead letters, and what only it
                 waited for are gone; `run` with this sink would begin anew
        NAME     of the sink to forget; with show, only this one

        failing  it is asked again by itself; what waits for it is kept
        paused   it wants something from a person, and is asked every minute all the same

        Example: espcli sinks forget file
        """
        session = self._session
        if action not in ("show", "forget"):
            raise UsageError(
                f"`espcli sinks` knows show and forget, not {parse.quoted(action)}; "
                "a sink's name follows them."
            )
        if action == "forget" and not name:
            raise UsageError("NAME is missing; it goes `espcli sinks forget NAME`.")
        known = session.store.ledger().sinks
        chosen = [sink for sink in known if name in ("", sink.name)]
        if name and not chosen:
            raise _unknown(name)
        if action == "show":
            return _listed(chosen, session.now)
        return _forgotten(session, chosen[0], is_last=len(known) == 1)

    @verb
    def dead_letters(self, action: str = "show", sink: str = "") -> Any:
        """Lists the samples that a sink would never accept; or ends them.

        ACTION   show (the default), retry: sends them once more, drop: gives them up
        SINK     only those of this sink

        Example: espcli dead_letters retry datadog
        """
        session, store = self._session, self._session.store
        if action not in ("show", "retry", "drop"):
            raise UsageError(
                f"`espcli dead_letters` knows show, retry and drop, not {parse.quoted(action)}; "
                "a sink's name follows them."
            )
        letters = [letter for letter in store.letters() if sink in ("", letter.sink)]
        if sink and not letters and not any(s.name == sink for s in store.ledger().sinks):
            raise _unknown(sink)
        if action == "show":
            return _shown(letters, session.now)
        if action == "drop":
            count = store.bury("dropped", [letter.id for letter in letters])
            return Shown({"dropped": count}, f"{_were(count, 'dead letter')} given up.")
        return _retried(session, letters)


def _were(count: int, what: str) -> str:
    return f"{count} {what} was" if count == 1 else f"{count} {what}s were"


def _unknown(name: str) -> SinkError:
    return SinkError(
        f"No sink {parse.quoted(name)} has read samples; `espcli sinks` lists those that have."
    )


def _queue(queue: "Queue") -> str:
    size = f"{queue.bytes / 1e6:.1f} MB" if queue.bytes >= 1e6 else f"{queue.bytes / 1e3:.0f} kB"
    return (
        f"{queue.collected} collected, {queue.queued} queued in {size}, "
        f"{queue.dropped} dropped, {queue.refused} refused"
    )


def _equation(books: "Books") -> str:
    ends = ("accepted", "expired", "dead", "dropped", "queued")
    text = " + ".join(f"{getattr(books, end)} {end}" for end in ends)
    repeated = f"; {books.repeated} perhaps sent twice" if books.repeated else ""
    return f"{books.collected} collected = {text}{repeated}"


def _listed(sinks: "Sequence[SinkBooks]", now: float) -> Records:
    rows = []
    for name, books, state in sinks:
        told = {} if state is None else msgspec.to_builtins(state)
        rows.append(
            {"sink": name, "state": told.get("state", "new")}
            | msgspec.to_builtins(books)
            | {"problem": told.get("reason", ""), "age_s": now - state.at if state else None}
            | {key: told.get(key) for key in ("at", "since", "uploader", "status")}
            | {key: told.get(key) for key in ("ok_at", "retry_at", "skew_s")}
        )
    hint = "" if rows else "No sink has read samples yet: `espcli run` with a key, or with --sinks."
    if any(row["dead"] for row in rows):
        hint = "`espcli dead_letters` shows the dead ones with what was said of them."
    counts = ("collected", "accepted", "expired", "dead", "dropped", "queued")
    losses = sorted(("expired", "dropped", "dead"), key=lambda end: any(r[end] for r in rows))
    idle = [end for end in losses if not any(row[end] for row in rows)]
    return Records(
        rows,
        ("sink", "state", "age_s", *counts, "problem"),
        hint,
        spare=(*idle, "collected", "age_s", *losses[len(idle) :]),
    )


def _forgotten(session: Session, sink: "SinkBooks", *, is_last: bool) -> Shown:
    """Forgets a sink, unless somebody uploads to it."""
    name, books, state = sink
    silent_s = session.now - state.at if state is not None else None
    if state is not None and silent_s is not None and silent_s < SPOKE_S:
        raise SinkError(
            f"The sink {name} is in use: {state.uploader} spoke {max(silent_s, 0):.0f} s ago; "
            f"run it without {name}, and try again when it was silent for {SPOKE_S:.0f} s."
        )
    if not session.store.forget_sink(name):
        raise _unknown(name)
    rest = " Nobody reads the samples now: they wait for the next sink." if is_last else ""
    return Shown(
        {"forgotten": name, "books": msgspec.to_builtins(books)},
        f"The sink {name} is forgotten.{rest}",
    )


def _sinks(session: Session) -> "list[Sink]":
    """The chosen sinks; raises `SinkError` where none is."""
    from espnet import outlets

    # A command's own output is its answer; what a console sink says goes beside it.
    sinks = outlets.build(session.config, sys.stderr)
    if not sinks:
        raise SinkError(
            "No sink is chosen that reads samples: set DATADOG_API_KEY, or ESPNET_SINKS to "
            "datadog, dogstatsd, file or console; until then samples wait in Redis."
        )
    return sinks


def _upload(session: Session) -> Shown:
    """Empties the stream into each sink, as far as it takes it; raises `SinkError` where one does not."""
    import structlog.testing

    from espnet.sinks import Verdict
    from espnet.uploader import Drained, Uploader

    rows, problems, lines = [], [], []
    sinks = _sinks(session)
    for sink in sinks:  # all of them, before one settles what another has not heard of
        session.store.join(sink.name, session.now)
    for sink in sinks:
        uploader = Uploader(session.store, sink, session.holder, session.clock)
        drained = Drained(is_done=False)
        with structlog.testing.capture_logs():  # what it would log is our answer
            try:
                while not drained.is_done:
                    drained = drained.plus(uploader.drain(session.now))
            finally:
                uploader.close()
        queued = session.store.ledger().books(sink.name).queued
        is_ok = drained.stopped.verdict is Verdict.OK
        counts = {"accepted": drained.accepted, "expired": drained.expired, "dead": drained.dead}
        rows.append({"sink": sink.name, **counts, "queued": queued})
        line = (
            f"{sink.name}: {_were(drained.accepted, 'sample')} accepted, "
            f"{queued} {'is' if queued == 1 else 'are'} {'queued' if is_ok else 'kept'}"
            + (f", {drained.expired} too old" if drained.expired else "")
            + (f", {drained.dead} refused (see `espcli dead_letters`)" if drained.dead else "")
        )
        if is_ok:
            lines.append(f"{line}.")
        else:
            problems.append(f"{line}: {drained.stopped.reason}")
    if problems:
        raise SinkError(" ".join(problems + lines))
    return Shown(rows, "\n".join(lines))


def _shown(letters: "list[Letter]", now: float) -> Records:
    rows = [
        {
            "id": id_,
            "sink": sink,
            "metric": letter.sample.metric,
            "value": letter.sample.value,
            "at": letter.sample.at,
            "age_s": now - letter.sample.at,
            "tags": list(letter.sample.tags),
            "answer": letter.reason,
        }
        for id_, sink, letter in letters
    ]
    hint = "`espcli dead_letters retry` sends them once more, `drop` gives them up."
    return Records(
        rows,
        ("sink", "metric", "value", "age_s", "tags", "answer"),
        hint if rows else "There are no dead letters.",
        spare=("age_s", "value", "tags"),
    )


def _retried(session: Session, letters: "list[Letter]") -> Shown:
    """Sends dead letters straight to their sinks; raises `SinkError` where one does not answer."""
    from espnet.sinks import Verdict
    from espnet.uploader import Drained, Uploader

    counts = dict.fromkeys(("accepted", "refused", "expired"), 0)
    if not letters:
        return Shown(counts, "There are no dead letters.")
    sinks = {sink.name: sink for sink in _sinks(session)}
    wanted = sorted({letter.sink for letter in letters})
    missing = [name for name in wanted if name not in sinks]
    if missing:
        raise SinkError(
            f"The sink {missing[0]} has dead letters and is not chosen now; name it in "
            "ESPNET_SINKS, or retry those of another sink: `espcli dead_letters retry SINK`."
        )
    problems = []
    for name in wanted:
        uploader = Uploader(session.store, sinks[name], session.holder, session.clock)
        own = [letter for letter in letters if letter.sink == name]
        done = Drained()
        for start in range(0, len(own), _RETRIES):
            done = done.plus(uploader.retry(own[start : start + _RETRIES], session.now))
            if done.stopped.verdict is not Verdict.OK or not done.is_done:
                problems.append(
                    f"{name}: {done.stopped.reason or 'It is slow; repeat the command.'}"
                )
                break
        counts["accepted"] += done.accepted
        counts["refused"] += done.dead
        counts["expired"] += done.expired
    text = (
        f"{_were(counts['accepted'], 'dead letter')} accepted, {counts['refused']} refused again, "
        f"{counts['expired']} too old"
    )
    if problems:
        raise SinkError(f"{text}; the others stay as they are: {' '.join(problems)}")
    return Shown(counts, f"{text}.")
