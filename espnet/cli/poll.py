"""One poll for a person: the same trip as the collector's, by the blocking client."""

from espnet import trip
from espnet.board import client
from espnet.board.calls import GET_BASIC, parse_climate, parse_status, read_dht22
from espnet.cli.session import Session
from espnet.errors import BoardError, DeviceLockLost
from espnet.model import Climate, Device, Status
from espnet.store import Poll


def ask(session: Session, address: str, expected_id: str | None = None) -> tuple[Status, bytes]:
    """What the board at an address is and says, without any lock; raises `BoardError`."""
    body = client.send(address, GET_BASIC, session.config.timeout_s)
    return parse_status(address, body, expected_id), body


def update(session: Session, device: Device) -> None:
    """Polls a device under its lock and commits what it said.

    Raises `BoardError` after the failure was committed too, `DeviceBusy` when a collector has it.
    """
    timeout_s = session.config.timeout_s
    with session.store.hold(
        device, session.holder, ttl_s=session.lock_ttl_s, wait_s=session.lock_ttl_s
    ) as grant:
        fault = session.store.view(device.name).fault
        interval_s = device.interval_s or session.config.interval_s
        tags = trip.sample_tags(device)
        began = session.clock.monotonic()
        failure: BoardError | None = None
        try:
            status, body = ask(session, device.address, device.id)
        except BoardError as error:
            failure = error
            poll = trip.failed(
                grant, fault, error, at=session.now, interval_s=interval_s, tags=tags, luck=0.0
            )
        else:
            climates: dict[str, Climate] = {}
            climate_errors: dict[str, str] = {}
            for name, pin in device.dht22.items():
                left_s = began + 2 * timeout_s - session.clock.monotonic()
                try:
                    answer = client.send(
                        device.address, read_dht22(pin), max(0.05, min(left_s, timeout_s))
                    )
                    climates[name] = parse_climate(device.address, answer)
                except BoardError as error:
                    climate_errors[name] = error.what
            poll = trip.seen(
                device,
                grant,
                fault,
                body,
                status,
                climates,
                climate_errors,
                at=session.now,
                poll_s=session.clock.monotonic() - began,
                due=session.now,
                interval_s=interval_s,
                collector=session.holder,
                tags=tags,
            )
        _commit(session, device, poll)
    if failure is not None:
        raise failure


def _commit(session: Session, device: Device, poll: Poll) -> None:
    if session.store.commit([poll]):
        raise DeviceLockLost(device.name)
