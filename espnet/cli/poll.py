"""A whole trip of the collector's, for a person."""

import asyncio
import logging

from espnet.cli.session import Session
from espnet.errors import BoardError, CredentialClosed, DeviceLockLost


def update(session: Session, name: str) -> None:
    """Polls a device under its lock, as a collector does: read, decide, write, commit.

    Raises `BoardError` after the failure was committed too, `DeviceBusy` when a collector has it,
    `CredentialClosed` before anything is done without the password.
    """
    import structlog

    from espnet.collector import Collector

    # What the collector would log is what this command says anyway.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    store, config = session.store, session.config
    device = store.device(name)
    if device.credential and (problem := store.credential(device.id).problem):
        raise CredentialClosed(device.id, problem)
    collector = Collector(
        store,
        session.clock,
        holder=session.holder,
        interval_s=config.interval_s,
        timeout_s=config.timeout_s,
    )
    ttl_s = collector.lock_ttl_s
    with store.hold(device, session.holder, ttl_s=ttl_s, wait_s=ttl_s) as grant:
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
