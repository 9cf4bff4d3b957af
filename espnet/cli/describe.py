"""What is known of a device, as flat fields."""

from typing import Any

import msgspec

from espnet.model import View


def describe(view: View, now: float) -> dict[str, Any]:
    """Every field of a device, flat, as `--json` gives it; None where nothing is known.

    Times are Unix seconds, ``age_s`` and ``poll_s`` seconds. What a stale reading said stays
    visible, its ``state`` says that it is not the present.
    """
    device, reading, fault = view.device, view.reading, view.fault
    state = view.state(now)
    fields: dict[str, Any] = {
        "name": device.name,
        "id": device.id,
        "address": device.address,
        "tags": list(device.tags),
        "state": state,
        "online": state in ("online", "late"),
        "problem": problem_of(view) or mode_of(view) or pace_of(view) or None,
        "access": access(view),
        "fault": msgspec.to_builtins(fault) if fault else None,
        "interval_s": view.asked_s,
        "slowed": slowed(view),
        "report_pins": list(device.report_pins),
        "dht22": dict(device.dht22),
        "adc": msgspec.to_builtins(device.adc),
        "safe": dict(device.safe),
        "registered_at": device.registered_at,
        "last_seen": reading.at if reading else None,
        "age_s": now - reading.at if reading else None,
        "poll_s": reading.poll_s if reading else None,
        "collector": reading.collector if reading else None,
        "readings": msgspec.to_builtins(reading.dht22) if reading else {},
        "reading_errors": dict(reading.dht22_errors) if reading else {},
        "adc_readings": dict(reading.adc) if reading else {},
        "adc_errors": dict(reading.adc_errors) if reading else {},
    }
    status = msgspec.to_builtins(reading.decoded()) if reading else {}
    for name in (
        "f",
        "gpio",
        "espnet_host",
        "boot",
        "uptime_s",
        "mem_free",
        "idf_free",
        "idf_largest",
        "version",
        "build",
        "trial",
        "safe_mode",
        "boots",
        "reset_cause",
        "claimed",
        "private",
        "leases",
        "leases_expired",
        "fence",
    ):
        fields[name] = status.get(name)
    if reading and reading.wrote:
        fields["gpio"] = {str(pin): level for pin, level in reading.levels().items()}
    fields["pins_high"] = [int(pin) for pin, level in (fields["gpio"] or {}).items() if level]
    return fields


#: The kinds of faults that are about a password.
_LOCKED = ("denied", "unproved", "unclaimed")


def problem_of(view: View) -> str:
    """What is wrong with a device: the end of a sentence, "" where nothing is."""
    if view.fault is not None:
        return view.fault.what
    return view.reading.denied if view.reading is not None else ""


def mode_of(view: View) -> str:
    """What is unusual about how the board runs, by its last reading; "" where nothing is."""
    status = view.reading.decoded() if view.reading is not None else None
    if status is not None and status.safe_mode:
        return "is in safe mode: it died too often"
    return "tries a new version" if status is not None and status.trial else ""


def slowed(view: View) -> dict[str, Any] | None:
    """How much slower than asked a board that struggles is polled, and why; None where it is not."""
    pace, asked_s = view.pace, view.asked_s
    if pace is None or pace.factor == 1 or asked_s is None:
        return None
    every_s = pace.factor * asked_s
    return {"factor": pace.factor, "every_s": every_s, "why": pace.why, "since": pace.since}


def pace_of(view: View) -> str:
    """The same as the end of a sentence; "" where it is polled as asked."""
    found = slowed(view)
    if found is None:
        return ""
    return f"is polled every {found['every_s']:g} s ({view.asked_s:g} s asked): {found['why']}"


def is_denied(view: View) -> bool:
    """Whether EspNet may not control the device, or cannot know that it is the board that it controls."""
    if view.fault is not None and view.fault.kind in _LOCKED:
        return True
    if view.reading is None:
        return False
    return bool(
        view.reading.denied or (view.reading.decoded().claimed and not view.device.credential)
    )


def is_unclaimed(view: View) -> bool:
    """Whether what answers says that it is open, though there is a password for the board."""
    return view.fault is not None and view.fault.kind == "unclaimed"


def access(view: View) -> str | None:
    """Who may control the board, as its last answer has it; None where there was none.

    ``open``: everybody on its network. ``claimed``: who has its password, and EspNet has it; ``private``:
    so does reading take it. ``denied``: it is claimed, and EspNet has no password that it takes, or it
    does not prove that it is that board.
    """
    if is_denied(view):
        return "denied"
    if view.reading is None:
        return None
    status = view.reading.decoded()
    if not status.claimed:
        return "open"
    return "private" if status.private else "claimed"
