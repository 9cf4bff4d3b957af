"""Asking boards for a person: one question without a lock, or one whole trip of the collector's."""

import asyncio
import logging
from typing import NamedTuple

from espnet.board import client
from espnet.board.calls import GET_BASIC, parse_status
from espnet.cli.session import Session
from espnet.errors import BoardError, DeviceLockLost
from espnet.model import Status


class Answer(NamedTuple):
    """What a board is and says, as a record and byte for byte."""

    status: Status
    body: bytes


def ask(session: Session, address: str, expected_id: str | None = None) -> Answer:
    """Calls the board at an address, without any lock; raises `BoardError`."""
    body = client.send(address, GET_BASIC, session.config.timeout_s)
    return Answer(parse_status(address, body, expected_id), body)


def update(session: Session, name: str) -> None:
    """Polls a device under its lock, as a collector does: read, decide, write, commit.

    Raises `BoardError` after the failure was committed too, `DeviceBusy` when a collector has it.
    """
    import structlog

    from espnet.collector import Collector

    # What the collector would log is what this command says anyway.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    store, config = session.store, session.config
    collector = Collector(
        store,
        session.clock,
        holder=session.holder,
        interval_s=config.interval_s,
        timeout_s=config.timeout_s,
    )
    ttl_s = collector.lock_ttl_s
    with store.hold(store.device(name), session.holder, ttl_s=ttl_s, wait_s=ttl_s) as grant:
        # Read under the lock: while we waited, the device may have been given another address.
        claim = store.claim_under(grant, name, session.now)

        async def trip() -> bool:
            try:
                return not (await collector.poll([claim])).void
            finally:
                await collector.close()

        if not asyncio.run(trip()):
            raise DeviceLockLost(name)
    view = store.view(name)
    if view.fault is not None:
        raise BoardError(view.device.address, view.fault.kind, view.fault.what)
