"""A whole trip of the collector's, for a person."""

import logging

from espnet.cli.session import Session


def update(session: Session, name: str) -> None:
    """Polls a device under its lock, as a collector does: read, decide, write, commit.

    Raises `BoardError` after the failure was committed too, `DeviceBusy` when a collector has it,
    `CredentialClosed` before anything is done without the password.
    """
    import structlog

    from espnet.collector import poll_now

    # What the collector would log is what this command says anyway.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    store, config = session.store, session.config
    device = store.device(name)
    poll_now(
        store,
        device,
        session.clock,
        holder=session.holder,
        interval_s=config.interval_s,
        timeout_s=config.timeout_s,
    )
