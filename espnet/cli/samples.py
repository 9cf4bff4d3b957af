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
    from espnet.sinks import Sink
    from espnet.store import Letter


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
        """Sends the queued samples to the chosen sinks now; says what became of them.

        `run` does this every 15 seconds. What is not accepted stays queued.
        """
        return _upload(self._session)

    @verb
    def process_backlog(self) -> Shown:
        """Sends what waits, newest first, and what uploaders that are gone had left, until it is done.

        What an uploader holds that fell silent less than a minute ago stays with it until then.
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
        )

    @verb
    def xpending(self) -> Records:
        """Lists who holds entries that are not settled yet, for each sink.

        entries   polls that were taken and not settled
        idle_s    the longest time that one of them lies there, in seconds; after 60 anybody may take
                  it over, and what was handed back counts as a day
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
        """Lists the sinks with their books; forgets one that is no longer used.

        ACTION   show (the default), or forget NAME: its books, its dead letters, and what only it
                 waited for are gone; `run` with this sink would begin anew

        Example: espcli sinks forget file
        """
        store = self._session.store
        if action == "show" and not name:
            rows = [
                {"sink": sink.name, "state": sink.state.state if sink.state else "new"}
                | msgspec.to_builtins(sink.books)
                | {"problem": sink.state.reason if sink.state else ""}
                for sink in store.ledger().sinks
            ]
            counts = ("collected", "accepted", "expired", "dead", "dropped", "queued")
            return Records(
                rows,
                ("sink", "state", *counts, "problem"),
                ""
                if rows
                else "No sink has read samples yet: `espcli run` with --sinks, or a key.",
                spare=("expired", "dead", "dropped"),
            )
        if action != "forget" or not name:
            raise UsageError("`espcli sinks` knows show, and forget with the NAME of a sink.")
        if not store.forget_sink(name):
            raise UsageError(
                f"No sink {parse.quoted(name)} has read samples; `espcli sinks` lists those that have."
            )
        return Shown({"forgotten": name}, f"The sink {name} is forgotten.")

    @verb
    def dead_letters(self, action: str = "show", sink: str = "") -> Any:
        """Lists the samples that a sink would never accept, with its answer; or ends them.

        ACTION   show (the default), retry: sends them once more, drop: gives them up
        SINK     only those of this sink

        Example: espcli dead_letters retry datadog
        """
        store = self._session.store
        if action not in ("show", "retry", "drop"):
            raise UsageError(
                f"`espcli dead_letters` knows show, retry and drop, not {parse.quoted(action)}."
            )
        letters = [letter for letter in store.letters() if sink in ("", letter.sink)]
        if sink and not letters and not any(s.name == sink for s in store.ledger().sinks):
            raise UsageError(f"No sink {parse.quoted(sink)} has read samples; see `espcli sinks`.")
        if action == "show":
            return _shown(letters)
        if action == "drop":
            count = store.bury("dropped", [letter.id for letter in letters])
            return Shown({"dropped": count}, f"{count} dead letters were given up.")
        return _retried(self._session, letters)


def _sinks(session: Session) -> "list[Sink]":
    """The chosen sinks; raises `SinkError` where none is."""
    from espnet import outlets

    sinks = outlets.build(session.config, sys.stdout)
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
    from espnet.uploader import Uploader

    done, problems = [], []
    for sink in _sinks(session):
        uploader = Uploader(session.store, sink, session.holder, session.clock)
        counts = dict.fromkeys(("accepted", "expired", "dead"), 0)
        with structlog.testing.capture_logs():  # what it would log is our answer
            try:
                while True:
                    drained = uploader.drain(session.now)
                    for name in counts:
                        counts[name] += getattr(drained, name)
                    if drained.is_done:
                        break
            finally:
                uploader.close()
        queued = session.store.ledger().books(sink.name).queued
        done.append({"sink": sink.name, **counts, "queued": queued})
        if drained.stopped.verdict is not Verdict.OK:
            problems.append(
                f"{sink.name}: {counts['accepted']} samples were accepted, {queued} are kept: "
                f"{drained.stopped.reason}"
            )
    if problems:
        raise SinkError(" ".join(problems))
    return Shown(
        done,
        "\n".join(
            f"{row['sink']}: {row['accepted']} samples were accepted, {row['queued']} are queued"
            + (f", {row['expired']} were too old" if row["expired"] else "")
            + (f", {row['dead']} were refused: see `espcli dead_letters`." if row["dead"] else ".")
            for row in done
        ),
    )


def _shown(letters: "list[Letter]") -> Records:
    rows = [
        {
            "id": id_,
            "sink": sink,
            "metric": letter.sample.metric,
            "value": letter.sample.value,
            "at": letter.sample.at,
            "tags": list(letter.sample.tags),
            "answer": letter.reason,
        }
        for id_, sink, letter in letters
    ]
    hint = "`espcli dead_letters retry` sends them once more, `drop` gives them up."
    return Records(
        rows,
        ("sink", "metric", "value", "tags", "answer"),
        hint if rows else "There are no dead letters.",
    )


def _retried(session: Session, letters: "list[Letter]") -> Shown:
    """Sends dead letters straight to their sinks."""
    from espnet.sinks import Verdict
    from espnet.uploader import Uploader

    sinks = {sink.name: sink for sink in _sinks(session)}
    missing = sorted({letter.sink for letter in letters} - set(sinks))
    if missing:
        raise SinkError(
            f"The sink {missing[0]} has dead letters and is not chosen now; name it in ESPNET_SINKS."
        )
    counts = dict.fromkeys(("accepted", "refused", "expired"), 0)
    for name in sorted({letter.sink for letter in letters}):
        uploader = Uploader(session.store, sinks[name], session.holder, session.clock)
        done = uploader.retry([letter for letter in letters if letter.sink == name], session.now)
        counts["accepted"] += done.accepted
        counts["refused"] += done.dead
        counts["expired"] += done.expired
        if done.stopped.verdict is not Verdict.OK:
            raise SinkError(
                f"{counts['accepted']} dead letters were accepted, the others stay as they are: "
                f"{name}: {done.stopped.reason}"
            )
    return Shown(
        counts,
        f"{counts['accepted']} dead letters were accepted, {counts['refused']} refused again, "
        f"{counts['expired']} were too old.",
    )
