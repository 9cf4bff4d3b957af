"""Polls for a person: the same trip as the collector's, by the blocking client; and the first of all."""

import msgspec

from espnet import trip
from espnet.board import client
from espnet.board.calls import GET_BASIC, parse_climate, parse_status, read_dht22
from espnet.cli.session import Session
from espnet.errors import BoardError, DeviceLockLost
from espnet.model import Climate, Device, Reading, phase


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
    """Polls a device under its lock and commits what it said.

    Raises `BoardError` after the failure was committed too, `DeviceBusy` when a collector has it.
    """
    store, ttl_s = session.store, session.lock_ttl_s
    failure: BoardError | None = None
    with store.hold(store.device(name), session.holder, ttl_s=ttl_s, wait_s=ttl_s) as grant:
        # Read under the lock: while we waited, the device may have been given another address.
        view = store.view(name)
        device, fault = view.device, view.fault
        interval_s = device.interval_s or session.config.interval_s
        tags = trip.sample_tags(device)
        began = session.clock.monotonic()
        try:
            body = client.send(device.address, GET_BASIC, session.config.timeout_s)
            status = parse_status(device.address, body, device.id)
        except BoardError as error:
            failure = error
            poll = trip.failed(
                grant, fault, error, at=session.now, interval_s=interval_s, tags=tags, luck=0.0
            )
        else:
            climates, climate_errors = _climates(session, device, began)
            now = session.now
            poll = trip.seen(
                device,
                grant,
                fault,
                body,
                status,
                climates,
                climate_errors,
                at=now,
                poll_s=session.clock.monotonic() - began,
                due=now,
                interval_s=interval_s,
                collector=session.holder,
                tags=tags,
            )
        if store.commit([poll]):
            raise DeviceLockLost(device.name)
    if failure is not None:
        raise failure


def _climates(
    session: Session, device: Device, began: float
) -> tuple[dict[str, Climate], dict[str, str]]:
    """Reads the DHT22 sensors in what is left of the trip's time; a failure costs one reading."""
    timeout_s = session.config.timeout_s
    climates: dict[str, Climate] = {}
    errors: dict[str, str] = {}
    for sensor, pin in device.dht22.items():
        left_s = began + 2 * timeout_s - session.clock.monotonic()
        if left_s <= 0:
            errors[sensor] = "not read: the board took too long before its turn"
            continue
        try:
            body = client.send(device.address, read_dht22(pin), min(left_s, timeout_s))
            climates[sensor] = parse_climate(device.address, body)
        except BoardError as error:
            errors[sensor] = error.what
    return climates, errors
