"""What Prometheus is shown: the fleet as the store knows it, at the moment of the scrape.

Jobs are decided here as the collector decides them, with the same inputs, and nothing is written.
"""

from espnet import jobs
from espnet.clock import Clock
from espnet.model import Input, Job, Memory, Observed, Override, Threshold, View
from espnet.sinks.prometheus import CollectorState, Fleet, JobState, SinkState, StreamState
from espnet.store import COLLECTOR_FORGOTTEN_S, Store
from espnet.watch import look_up


def look(store: Store, clock: Clock) -> Fleet:
    """Everything that the page shows; raises `StoreUnavailable`."""
    now = clock.now()
    views, ledger = store.views(), store.ledger()
    all_jobs, memories = store.all_jobs(), store.memories()
    wanted = {
        job.input for found in all_jobs.values() for job in found if isinstance(job, Threshold)
    }
    inputs = look_up(store, wanted)
    return Fleet(
        now,
        views,
        jobs={
            view.device.id: _job_states(view, found, memories, inputs, now)
            for view in views
            if (found := all_jobs.get(view.device.id))
        },
        collectors=[
            CollectorState(name, max(0.0, now - at))
            for name, at in store.collectors_seen(now, COLLECTOR_FORGOTTEN_S).items()
        ],
        sinks=[
            SinkState(
                sink.name,
                sink.state.state if sink.state else "new",
                sink.books,
                sink.state.ok_at if sink.state else None,
            )
            for sink in ledger.sinks
        ],
        stream=StreamState(
            store.stream_info()["length"],
            ledger.queue.queued,
            ledger.queue.bytes,
            ledger.queue.refused,
        ),
    )


def _job_states(
    view: View,
    found: tuple[Job, ...],
    memories: dict[str, Memory],
    inputs: dict[str, Input],
    now: float,
) -> list[JobState]:
    """What each job of a device says now; nothing of a device whose reading is old."""
    if view.reading is None or not view.reading.is_fresh(now):
        return []
    levels, uptime_s = view.reading.levels(), view.reading.decoded().uptime_s
    booted_at = view.reading.at - uptime_s if uptime_s is not None else None
    present = [job for job in found if not isinstance(job, Override) or not jobs.is_over(job, now)]
    observed = Observed(levels, memories.get(view.device.id, Memory()), booted_at)
    return [
        JobState(said.job, said.kind, pin, said.level, said is decision.winner)
        for pin, decision in jobs.decide(present, inputs, observed, now).items()
        for said in (decision.winner, *decision.losers)
    ]
