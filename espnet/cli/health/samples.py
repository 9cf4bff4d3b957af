"""What is wrong on the way of the samples: the queue, the history, the sinks, and their books.

Invariant: a sink that comes back by itself is a remark, for as long as that is likely.
"""

import math
from collections.abc import Iterator

from espnet.cli.amounts import amount, amount_is, duration, size
from espnet.cli.facts import Facts, Sink
from espnet.cli.health.problem import FULL, Problem, problem, remark
from espnet.historian import LEAST_SHARE
from espnet.samples import Books
from espnet.store import HISTORY

#: Samples that wait for longer, without a word from an uploader, have nobody who uploads them.
SILENT_S = 120.0
#: A sink that fails for longer does not come back by itself.
FAILING_S = 300.0
#: How far the intake's clock may be off; and how far until it refuses points from the future.
INTAKE_SKEW_S, INTAKE_FUTURE_S = 60.0, 600.0


def with_queue(facts: Facts) -> Iterator[Problem]:
    queue, settings = facts.queue, facts.settings
    if queue is None:
        return
    share = max(queue.queued / settings.max_samples, queue.bytes / settings.max_bytes)
    readers = [sink for sink in facts.sinks or () if sink.name != HISTORY]
    if share >= FULL:
        say = problem if readers else remark
        yield say(
            f"The queue is {share:.0%} full; past its bounds the oldest samples go.",
            "bring back the sink that it waits for (`espcli sinks`), or let go of it "
            "(`espcli sinks forget NAME`); ESPNET_MAX_SAMPLES and ESPNET_QUEUE_MB are the bounds",
        )
    is_begun = facts.devices is not None and facts.devices.total > 0
    if is_begun and not settings.sinks and not settings.is_sinks_chosen and not readers:
        yield remark(
            "No sink is chosen: samples wait in Redis, the newest "
            f"{settings.max_samples:,} of them.",
            "set DATADOG_API_KEY, or ESPNET_SINKS (none, if that is what you want)",
        )
    if facts.alive and is_begun:
        joined = {sink.name for sink in readers}
        strangers = len(joined.difference(settings.sinks))
        for word in settings.sinks:
            if word == "prometheus" or word in joined:
                continue
            if ":" in word and strangers:
                strangers -= 1  # a sink of the user's own, whose name is in its class
                continue
            yield problem(
                f"The sink {word} is chosen here, but no uploader has ever read samples for it: "
                "the collectors were started with other settings.",
                f"start `espcli run` anew, with {word} in ESPNET_SINKS or --sinks",
            )


def with_sink(sink: Sink, facts: Facts) -> Iterator[Problem]:
    name, books, state = sink.name, sink.books, sink.state
    if not books.is_balanced:
        yield problem(
            f"The books of {name} do not balance: {equation(books)}.",
            "somebody changed EspNet's keys, or this is a bug: keep `espcli xinfo --json` and report it",
        )
    if _is_silent(sink, facts):
        whose = "" if sink.is_chosen else ", which is not chosen here"
        yield problem(
            f"Nobody uploads to {name}{whose}: {amount_is(books.queued, 'sample')} waiting, the oldest for "
            f"{duration(sink.waits_s)}.",
            f"`espcli run` with this sink, or `espcli sinks forget {name}` if it is no longer used"
            if name != HISTORY
            else "`espcli run` with ESPNET_HISTORY_MB above 0",
        )
    elif state is not None and state.state == "paused":
        yield problem(
            f"{name} has been paused for {duration(facts.now - state.since)}: {_clause(state.reason)}.",
            _key_advice(name, state.status),
        )
    elif state is not None and state.state == "failing":
        since_s = facts.now - state.since
        say = problem if since_s > FAILING_S else remark
        yield say(
            f"{name} has failed for {duration(since_s)}: {_clause(state.reason)}.",
            "nothing is lost and it is tried again by itself; see that it can be reached from here",
        )
    if state is not None and state.skew_s is not None and abs(state.skew_s) > INTAKE_SKEW_S:
        ahead = "behind" if state.skew_s > 0 else "ahead of"
        refused = " Points so far off are refused." if abs(state.skew_s) > INTAKE_FUTURE_S else ""
        yield problem(
            f"This fleet's clock is {duration(abs(state.skew_s))} {ahead} that of {name}.{refused}",
            "`timedatectl` where the collectors run; let them keep time by NTP",
        )
    if books.dead:
        yield problem(
            f"{name} would never accept {amount(books.dead, 'sample')}: dead letters.",
            f"`espcli dead_letters show {name}` says why; then `retry` or `drop`",
        )


def with_history(facts: Facts) -> Iterator[Problem]:
    budget, devices = facts.settings.history_bytes, facts.devices.total if facts.devices else 0
    if 0 < budget < devices * LEAST_SHARE:
        megabytes = math.ceil(devices * LEAST_SHARE / 1e6)
        yield remark(
            f"The history has {size(budget // devices)} for each of {amount(devices, 'device')}: too little "
            "to keep anything worth asking for.",
            f"set ESPNET_HISTORY_MB to {megabytes} or more ({size(LEAST_SHARE)} a device) where `espcli run` "
            "runs, or to 0 for no history",
        )


def _is_silent(sink: Sink, facts: Facts) -> bool:
    """Whether samples wait, and nobody has said a word about them for as long as that takes."""
    patience_s = max(SILENT_S, 3 * facts.settings.upload_interval_s)
    if sink.waits_s is None or sink.waits_s <= patience_s:
        return False
    if sink.state is None:
        return True
    return facts.now - max(sink.state.at, sink.state.retry_at or 0.0) > patience_s


def _key_advice(name: str, status: int | None) -> str:
    if name == "datadog" and status in (401, 403):
        return "put a valid DATADOG_API_KEY (and the right DATADOG_HOST) where `espcli run` runs"
    return f"set {name} right where `espcli run` runs; it is asked again every minute"


def equation(books: Books) -> str:
    """The law of the books, in numbers."""
    sign = "=" if books.is_balanced else "≠"
    return (
        f"{books.collected:,} collected {sign} {books.accepted:,} accepted + {books.expired:,} expired"
        f" + {books.dead:,} dead + {books.dropped:,} dropped + {books.queued:,} queued"
    )


def _clause(reason: str) -> str:
    return reason.strip().rstrip(".") or "it did not say why"
