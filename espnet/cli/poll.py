"""Polls for a person: the first one of a board, and a whole trip of the collector's."""

import asyncio
import logging

import msgspec

from espnet.board import client
from espnet.board.calls import GET_BASIC, parse_status
from espnet.cli.session import Session
from espnet.errors import BoardError, DeviceLockLost
from espnet.model import Device, Reading, phase


def register(
    session: Session, address: str, name: str, tags: tuple[str, ...], *, replace: bool
) -> Device:
    """Calls the board at an address and stores it with what it said; returns the record as stored.

    Raises `BoardError`, or `RegistryConflict` as `Store.add` does.
    """
    began = session.clock.monotonic()
    body = client.send(address, GET_BASIC, session.config.timeout_s)
    status = parse_status(address, body)
    now, interval_s = session.now, session.config.interval_s
    device = Device(id=status.id, name=name, address=address, tags=tags, registered_at=now)
    reading = Reading(
        at=now,
        poll_s=session.clock.monotonic() - began,
        interval_s=interval_s,
        collector=session.holder,
        status=msgspec.Raw(body),
    )
    first_due = now + phase(device.id) * interval_s
    return session.store.add(device, reading, first_due=first_due, replace=replace)


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
