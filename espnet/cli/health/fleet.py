"""What is wrong with the fleet: who polls it, which boards answer, who may control them, what they run.

Invariant: what no board can help is not said of boards: where no collector runs, and where EspNet's password
does not open one, that alone is said.
"""

from collections.abc import Iterator

from espnet.cli.amounts import NAMED, amount, amount_is, duration, some
from espnet.cli.facts import Facts
from espnet.cli.health.problem import SKEW_S, Problem, problem, remark

#: A poll that is due for longer is late by more than a slow heartbeat.
OVERDUE_S = 120.0


def with_collectors(facts: Facts) -> Iterator[Problem]:
    if facts.collectors is None or facts.devices is None:
        return
    total = facts.devices.total
    if total and not facts.alive:
        seen = [one for one in facts.collectors if one.age_s is not None]
        last = min(seen, key=lambda one: one.age_s or 0.0, default=None)
        when = f" The last one was {last.name}, {duration(last.age_s)} ago." if last else ""
        devices = "device" if total == 1 else amount(total, "device")
        yield problem(
            f"No collector runs: nobody polls the {devices}, and no job acts.{when}",
            "`espcli run`, or start the service that does; its log says why it ended",
        )
    for shard, names in sorted(facts.devices.unserved.items()) if facts.alive else ():
        whom = f"the shard {shard}" if shard else "devices without a shard"
        yield problem(
            f"No collector polls {whom}: {some(names)}.",
            f"`espcli run{f' --shard {shard}' if shard else ''}` where it reaches them; the tag shard:NAME "
            "of a device says whose it is",
        )
    for one in facts.collectors:
        if one.age_s is not None and one.age_s < -SKEW_S:
            yield problem(
                f"The clock of {one.name} is {duration(-one.age_s)} ahead of this machine's.",
                "`timedatectl` on both machines; let one of them keep time by NTP",
            )


def with_devices(facts: Facts) -> Iterator[Problem]:
    devices = facts.devices
    if devices is None:
        return
    if not devices.total:
        yield remark(
            "No devices are registered yet.",
            "`espcli register ADDRESS NAME`; without a board: `espcli simulate 3`",
        )
    denied = _denied(facts)
    offline = [one for one in devices.offline if one.name not in denied]
    if offline and facts.alive:
        lost = [one.name + (f" ({one.what})" if one.what else "") for one in offline[:NAMED]]
        first = offline[0].name
        yield problem(
            f"{amount_is(len(offline), 'device')} offline: {some(lost, len(offline))}.",
            f"see to power and Wi-Fi; `espcli device {first} update` asks again, and "
            f"`espcli register ADDRESS {first}` says that it moved",
        )
    if devices.overdue and devices.oldest_overdue_s > OVERDUE_S and facts.alive:
        yield problem(
            f"The collectors do not keep up: {amount_is(devices.overdue, 'poll')} overdue, the oldest by "
            f"{duration(devices.oldest_overdue_s)}.",
            "`espcli run` on one more machine, or longer intervals (`espcli device NAME interval`)",
        )
    if devices.far:
        yield problem(
            f"{some(devices.far)} {'is' if len(devices.far) == 1 else 'are'} to be polled further in "
            "the future than any interval: was a clock set back?",
            f"`espcli device {devices.far[0]} update` polls one now, and then it is in time again",
        )
    if devices.unscheduled:
        yield problem(
            f"{some(devices.unscheduled)} {'has' if len(devices.unscheduled) == 1 else 'have'} no date "
            "for the next poll, so nobody polls them.",
            f"`espcli device {devices.unscheduled[0]} update` polls one now and gives it a date",
        )
    if devices.slowed:
        told = [
            f"{one.name} ({one.what}; every {one.every_s:g} s, {one.asked_s:g} s asked)"
            for one in devices.slowed[:NAMED]
        ]
        are = "board is" if len(devices.slowed) == 1 else "boards are"
        yield remark(
            f"{len(devices.slowed):,} {are} polled slower than asked: {some(told, len(devices.slowed))}.",
            "it ends by itself when they bear more; see who else asks them, read fewer sensors, or let them "
            f"be asked less (`espcli device {devices.slowed[0].name} interval SECONDS`)",
        )
    if devices.sensors:
        yield remark(
            f"{amount_is(len(devices.sensors), 'sensor')} silent: {some(devices.sensors)}.",
            "see to its wires; `espcli device NAME` shows what each sensor said",
        )


def _denied(facts: Facts) -> set[str]:
    """The devices that we may not control: all that fails there fails for this reason."""
    if facts.devices is None:
        return set()
    return {one.name for one in facts.devices.denied} | set(facts.devices.unclaimed)


def with_updates(facts: Facts) -> Iterator[Problem]:
    """What boards run, and what became of the latest update."""
    devices, update = facts.devices, facts.update
    if devices is None:
        return
    if devices.safe_mode:
        are = "is" if len(devices.safe_mode) == 1 else "are"
        yield problem(
            f"{some(devices.safe_mode)} {are} in safe mode: what it runs died too often within a minute.",
            f"`espcli update {devices.safe_mode[0]}` puts the firmware on that came with this EspNet",
        )
    if update is not None and update.state == "halted":
        yield problem(
            f"The update to {update.version} is halted: {update.reason}.",
            "`espcli update status`; then update to a version that is repaired, or `espcli update resume` "
            "goes on without the boards that failed",
        )
    is_running = update is not None and update.state == "running"
    if update is not None and is_running and not (update.is_driven or facts.alive):
        yield problem(
            f"The update to {update.version} is not over, and nobody goes on with it.",
            "`espcli run` does, and `espcli update resume`",
        )
    tried = [name for name in devices.trial if update is None or name not in update.trial]
    if tried:
        yield remark(
            f"{some(tried)} {'tries' if len(tried) == 1 else 'try'} a version that nobody here gave out; "
            "it ends by itself unless it is confirmed.",
            "wait, or `espcli update status` where it came from",
        )
    known = {version: count for version, count in devices.versions.items() if " " in version}
    if len(known) > 1 and not is_running:
        told = [f"{version} on {amount(count, 'board')}" for version, count in known.items()]
        yield remark(f"Boards run different versions: {some(told)}.", "`espcli update --all`")


def with_access(facts: Facts) -> Iterator[Problem]:
    """Who may control the boards."""
    devices, passwords = facts.devices, facts.passwords
    if devices is None or passwords is None:
        return
    if passwords.closed:
        names = list(passwords.closed)
        yield problem(
            f"EspNet's password for {some(names)} {passwords.closed[names[0]]}.",
            "set ESPNET_SECRET_KEY here and where `espcli run` runs; after a change of keys, NEW,OLD",
        )
    if devices.unclaimed:
        name = devices.unclaimed[0]
        yield problem(
            f"{some(devices.unclaimed)} {'is' if len(devices.unclaimed) == 1 else 'are'} open, though "
            "EspNet gave a password: made open over USB, or something else answers at the address.",
            f"look what answers there; `espcli device {name} credentials claim --again` gives it a new "
            "password, `espcli register ADDRESS NAME --open` leaves it open",
        )
    denied = [one for one in devices.denied if one.name not in passwords.closed]
    if denied:
        told = [f"{one.name} ({one.what or 'no password is kept'})" for one in denied[:NAMED]]
        first = denied[0].name
        yield problem(
            f"EspNet may not control {some(told, len(denied))}: no pin is set there, and leases end.",
            f"look what answers at its address; `espcli device {first} credentials claim --ask` takes the "
            "password from you; if it is lost, `mpremote fs rm :claim.json + reset` over USB opens the board",
        )
    if passwords.unsealed and facts.settings.has_secret_key:
        yield remark(
            f"{amount_is(passwords.unsealed, 'password')} not sealed under ESPNET_SECRET_KEY.",
            "`espcli seal`",
        )
    if devices.open:
        yield remark(
            f"{some(devices.open)} {'is' if len(devices.open) == 1 else 'are'} open: everybody on the "
            "network can switch the pins.",
            f"`espcli device {devices.open[0]} credentials claim`; boards of 2021 need today's firmware "
            "(`make put`)",
        )


def with_jobs(facts: Facts) -> Iterator[Problem]:
    denied = _denied(facts)
    refusals = [one for one in facts.refusals or () if one.device not in denied]
    if refusals and facts.alive:
        pins = [f"{one.device} pin {one.pin} ({one.what})" for one in refusals[:NAMED]]
        first = refusals[0]
        yield problem(
            f"{amount(len(refusals), 'pin')} could not be set as decided: {some(pins, len(refusals))}.",
            f"`espcli why {first.device} {first.pin}`",
        )
