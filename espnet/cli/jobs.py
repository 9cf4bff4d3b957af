"""The words about a device's jobs, after `espcli device NAME`."""

from collections.abc import Callable
from typing import Any, cast

import msgspec

from espnet.cli import parse
from espnet.cli.act import Words, verb
from espnet.cli.render import Lines, Records, Shown
from espnet.cli.session import Session
from espnet.errors import UsageError
from espnet.model import (
    CONSOLE_PINS,
    FLASH_PINS,
    INPUT_ONLY_PINS,
    Device,
    Job,
    Override,
    Threshold,
    Timer,
    View,
)

#: The longest override, in seconds: a year.
MAX_OVERRIDE_S = 366 * 86_400.0
#: Most characters of the note that goes with an override.
MAX_WHY = 200


class JobWords(Words):
    """What a device's pins should be: timers, thresholds, overrides."""

    _session: Session
    _name: str

    # --- defining -------------------------------------------------------------------------------

    @verb
    def add_timer_job(
        self,
        job: str,
        pin: str,
        start: str,
        hours: str,
        *,
        days: str = "daily",
        zone: str = "",
        lat: str = "",
        lon: str = "",
        window: str = "0",
        invert: bool = False,
        no_lease: bool = False,
        anyway: bool = False,
    ) -> Shown:
        """Adds a timer: a pin is high in a window of local time, else low.

        JOB      a name for it
        PIN      the GPIO number that it governs
        START    HH:MM or HH:MM:SS, or sunrise+00:30, sunset-01:00
        HOURS    how long the window lasts, elapsed time: above 0, at most 24

        --days mon,tue|weekdays|weekends   on which days it starts (daily)
        --zone Europe/Vienna               the time zone (ESPNET_ZONE, else this machine's)
        --lat 48.2 --lon 16.4              where the sun rises (ESPNET_LAT, ESPNET_LON)
        --window MINUTES                   starts up to so much later, differently each day
        --invert                           low in the window, high outside
        --no_lease                         an ON outlives this controller
        --anyway                           even where it contradicts another job

        Example: espcli device porch add_timer_job lamp 4 sunset-00:30 5
        """
        from espnet import windows

        timer = Timer(
            name=job,
            pin=parse.pin(pin),
            start=start,
            hours=windows.parse_hours(hours),
            zone=self._zone(zone),
            days=windows.parse_days(days),
            window_min=windows.parse_window_min(window),
            invert=bool(invert),
            lease=not no_lease,
            **self._place(start, lat, lon),
        )
        return self._add(timer, anyway=bool(anyway))

    @verb
    def add_threshold_job(
        self,
        job: str,
        pin: str,
        start: str,
        hours: str,
        lock: str,
        input: str,
        target: str,
        *,
        mode: str = "",
        band: str = "",
        min_on: str = "",
        min_off: str = "",
        max_age: str = "",
        stale: str = "",
        unit: str = "",
        days: str = "",
        zone: str = "",
        lat: str = "",
        lon: str = "",
        no_lease: bool = False,
        anyway: bool = False,
    ) -> Shown:
        """Adds a thermostat or the like: a pin follows an input.

        JOB      a name for it
        PIN      the GPIO number that it governs
        START    as a timer's; 00:00 with HOURS 24 is always
        HOURS    how long the window lasts; outside of it the pin is low
        LOCK     least time between two changes: 60, 90s, 5m, 2h
        INPUT    porch.f, porch.dht22.attic.temp, porch.dht22.attic.humidity, porch.gpio.4,
                 porch.adc.36, redis:KEY or redis:KEY#FIELD
        TARGET   on below it, off above it

        --mode heat|cool       cool turns that round (heat)
        --band B               on at TARGET - B, off at TARGET + B (0)
        --min_on, --min_off T  least time that the pin stays on, or off: for compressors
        --max_age T            an older input is stale (three intervals of its device)
        --stale off|on|hold    what is wanted while the input is stale; required with any option
        --unit c|f             the unit of TARGET; a temperature in the other one is converted
        --days, --zone, --lat, --lon, --no_lease, --anyway   as a timer's

        Example: espcli device porch add_threshold_job heater 4 00:00 24 60
                 porch.dht22.air.temp 20 --band 0.5 --stale off
        """
        from espnet import inputs, windows

        options = (mode, band, min_on, min_off, max_age, unit, days, zone, lat, lon, no_lease)
        if not stale and any(options):
            raise UsageError(
                "--stale is missing: say what the pin should do while the input is missing or too "
                "old, --stale off, --stale on or --stale hold."
            )
        threshold = Threshold(
            name=job,
            pin=parse.pin(pin),
            start=start,
            hours=windows.parse_hours(hours),
            zone=self._zone(zone),
            input=input,
            target=parse.number(target, "TARGET"),
            stale=cast(Any, parse.one_of(stale or "off", "--stale", ("off", "on", "hold"))),
            mode=cast(Any, parse.one_of(mode or "heat", "--mode", ("heat", "cool"))),
            band=parse.number(band or "0", "--band", least=0),
            lock_s=parse.duration(lock, "LOCK"),
            min_on_s=parse.duration(min_on or "0", "--min_on"),
            min_off_s=parse.duration(min_off or "0", "--min_off"),
            max_age_s=parse.duration(max_age, "--max_age", least=0.1) if max_age else None,
            unit=cast(Any, parse.one_of(unit, "--unit", ("c", "f"))) if unit else None,
            days=windows.parse_days(days or "daily"),
            lease=not no_lease,
            **self._place(start, lat, lon),
        )
        source = inputs.check(threshold.input, self._session.config.prefix)
        if unit and source.what not in ("f", "temp", "redis"):
            raise UsageError(f"--unit goes with a temperature, and {input} is none; leave it out.")
        return self._add(threshold, anyway=bool(anyway))

    @verb
    def override(self, pin: str, action: str, *, for_: str = "", why: str = "") -> Shown:
        """Holds a pin on or off for a while, whatever its jobs say.

        PIN      the GPIO number
        ACTION   on, off, or clear: the jobs decide again

        --for 2h      how long: 90s, 5m, 2h, 1d; required with on and off
        --why TEXT    a note for whoever wonders

        Example: espcli device porch override 4 on --for 2h --why "guests"
        """
        number_, wanted = parse.pin(pin), parse.one_of(action, "ACTION", ("on", "off", "clear"))
        if wanted == "clear":
            return self._clear_override(number_)
        if not for_:
            raise UsageError("--for is missing: an override has an end, such as --for 2h.")
        lasts_s = parse.duration(for_, "--for", least=1.0, most=MAX_OVERRIDE_S)
        if len(why) > MAX_WHY or not why.isprintable():
            raise UsageError(f"--why is one line of at most {MAX_WHY} printable characters.")
        now = self._session.now
        new = Override(
            pin=number_,
            level=1 if wanted == "on" else 0,
            since=now,
            until=now + lasts_s,
            why=why,
        )
        ends = ""

        def put(device: Device, jobs: tuple[Job, ...]) -> tuple[Job, ...]:
            nonlocal ends
            _require_pin(self._session.store.view(device.name), number_)
            kept = [job for job in jobs if not _is_override(job, number_)]
            if not any(job.pin == number_ and _decides(job, now) for job in kept):
                ends = (
                    f" No job governs it: after that it stays {wanted} until somebody changes it."
                )
            return (*kept, new)

        self._change_jobs(put)
        return Shown(
            msgspec.to_builtins(new),
            f"Pin {number_} of {self._name} is held {wanted} for {for_}.{ends} {self._who_acts()}",
        )

    def _clear_override(self, pin: int) -> Shown:
        def clear(device: Device, jobs: tuple[Job, ...]) -> tuple[Job, ...]:
            if not any(_is_override(job, pin) for job in jobs):
                raise UsageError(f"Pin {pin} of {device.name} has no override.")
            return tuple(job for job in jobs if not _is_override(job, pin))

        device = self._change_jobs(clear)
        left = [job for job in self._session.store.jobs(device) if job.pin == pin]
        if any(_decides(job, self._session.now) for job in left):
            return Shown({"pin": pin}, f"The jobs of pin {pin} of {self._name} decide again.")
        text = f"Pin {pin} of {self._name} stays as it is: no job governs it."
        return Shown({"pin": pin}, text)

    @verb
    def safe(self, pin: str, level: str) -> Shown:
        """Sets what a pin falls back to when nobody renews its lease.

        PIN     the GPIO number
        LEVEL   low (unless said otherwise), high, or hold: it stays as it is

        Example: espcli device porch safe 5 high
        """
        number_ = parse.pin(pin)
        wanted = cast(Any, parse.one_of(level, "LEVEL", ("low", "high", "hold")))
        _require_pin(self._session.store.view(self._name), number_)
        self._session.store.change(
            self._name,
            lambda old: msgspec.structs.replace(old, safe={**old.safe, number_: wanted}),
            now=self._session.now,
        )
        return Shown(
            {"pin": number_, "safe": wanted},
            f"Pin {number_} of {self._name} falls back to {wanted} when its lease runs out.",
        )

    # --- managing -------------------------------------------------------------------------------

    @verb
    def jobs(self) -> Records:
        """Lists the device's jobs: what each says, who wins, what is next."""
        from espnet.cli.explain import job_rows

        rows = job_rows(self._session, self._session.store.view(self._name))
        return Records(
            rows,
            ("job", "kind", "pin", "state", "wins", "says", "next_change", "why"),
            ""
            if rows
            else f"{self._name} has no jobs; "
            f"`espcli device {self._name} add_timer_job --help` shows how to add one.",
            spare=("kind", "next_change"),
        )

    @verb
    def job(self, job: str) -> Lines:
        """Shows how a job is defined, and what it says now."""
        from espnet.cli.explain import job_fields

        view = self._session.store.view(self._name)
        found = _named(view.device, self._session.store.jobs(view.device), job)
        return Lines(job_fields(self._session, view, found))

    @verb
    def enable_job(self, job: str, *, anyway: bool = False) -> Shown:
        """Lets a job decide again.

        --anyway   even where it contradicts another job
        """

        def enable(device: Device, jobs: tuple[Job, ...]) -> tuple[Job, ...]:
            old = _named(device, jobs, job)
            if not anyway:
                _refuse_contradiction(old, tuple(other for other in jobs if other is not old))
            new = msgspec.structs.replace(old, enabled=True)
            return tuple(new if other is old else other for other in jobs)

        self._change_jobs(enable)
        return Shown({"job": job, "enabled": True}, f"{job} decides again. {self._who_acts()}")

    @verb
    def disable_job(self, job: str, *, off: bool = False) -> Shown:
        """Keeps a job's definition and takes away its say.

        A pin that no other job governs is left as it is.

        --off   switches such a pin off first
        """
        self._retire(job, lambda old: msgspec.structs.replace(old, enabled=False), bool(off))
        return Shown({"job": job, "enabled": False}, f"{job} decides nothing any more.")

    @verb
    def remove_job(self, job: str, *, off: bool = False) -> Shown:
        """Forgets a job.

        A pin that no other job governs is left as it is.

        --off   switches such a pin off first
        """
        self._retire(job, lambda old: None, bool(off))
        return Shown({"job": job}, f"{job} is removed from {self._name}.")

    # --- help for the above ---------------------------------------------------------------------

    def _zone(self, text: str) -> str:
        from espnet import windows

        zone = text or self._session.zone
        windows.parse_zone(zone)
        return zone

    def _place(self, start: str, lat: str, lon: str) -> dict[str, Any]:
        """Where the sun rises: what was said, else the site's own place, where the sun matters."""
        from espnet import windows

        if windows.parse_start(start).event == "midnight" and not lat and not lon:
            return {}
        config = self._session.config
        return {
            "lat": windows.parse_lat(lat) if lat else config.lat,
            "lon": windows.parse_lon(lon) if lon else config.lon,
        }

    def _add(self, new: Timer | Threshold, *, anyway: bool) -> Shown:
        from espnet import windows

        parse.name(new.name, "job's name")
        if new.name == "override":
            raise UsageError(
                "A job cannot be named override, as overrides are; choose another name."
            )
        windows.check(new)

        def add(device: Device, jobs: tuple[Job, ...]) -> tuple[Job, ...]:
            if any(_called(job, new.name) for job in jobs):
                raise UsageError(
                    f"{device.name} has a job named {new.name!r}; `remove_job {new.name}` first, "
                    "or choose another name."
                )
            _require_pin(self._session.store.view(device.name), new.pin)
            if not anyway:
                _refuse_contradiction(new, jobs)
            return (*jobs, new)

        self._change_jobs(add)
        return Shown(
            msgspec.to_builtins(new),
            f"{self._name} has the job {new.name} on pin {new.pin}. {self._who_acts()}\n"
            f"`espcli why {self._name} {new.pin}` shows what it says.",
        )

    def _replace(self, name: str, how: Callable[[Any], Any]) -> None:
        def replace(device: Device, jobs: tuple[Job, ...]) -> tuple[Job, ...]:
            _named(device, jobs, name)
            changed = (how(job) if _called(job, name) else job for job in jobs)
            return tuple(job for job in changed if job is not None)

        self._change_jobs(replace)

    def _change_jobs(self, how: Callable[[Device, tuple[Job, ...]], tuple[Job, ...]]) -> Device:
        from espnet.jobs import is_over

        now = self._session.now

        def change(device: Device, jobs: tuple[Job, ...]) -> tuple[Job, ...]:
            governed = {job.pin for job in jobs if not isinstance(job, Override)}
            kept = tuple(
                job
                for job in jobs
                if not isinstance(job, Override)
                or now < job.until
                or not (job.pin in governed or is_over(job, now))
            )
            return how(device, kept)

        return self._session.store.change_jobs(self._name, change, now=now)

    def _retire(self, name: str, how: Callable[[Any], Any], off: bool) -> None:
        """Takes a job's say away; with ``off`` a pin that it governs alone is switched off first.

        All of it under the lock: in between nobody switches it on again. Where the board does not
        answer, nothing is changed.
        """
        from espnet.board.calls import set_gpio
        from espnet.cli import claiming

        session = self._session
        device = session.store.device(self._name)
        jobs = session.store.jobs(device)
        pin = _named(device, jobs, name).pin
        others = [
            job
            for job in jobs
            if job.pin == pin and not _called(job, name) and _decides(job, session.now)
        ]
        if not off or others:
            self._replace(name, how)
            return
        ttl_s = session.lock_ttl_s
        with session.store.hold(device, session.holder, ttl_s=ttl_s, wait_s=ttl_s) as grant:
            view = session.store.view(self._name)
            knows = view.reading is not None and view.reading.decoded().fence is not None
            call = set_gpio((pin,), 0, fence=grant.fence if knows else None)
            claiming.send(session, view.device, call)
            self._replace(name, how)

    def _who_acts(self) -> str:
        if self._session.store.collectors(self._session.now, within_s=60):
            return "The collector sees to it at its next heartbeat."
        return f"No collector is running: `espcli run`, or `espcli device {self._name} update`."


def _called(job: Job, name: str) -> bool:
    return not isinstance(job, Override) and job.name == name


def _decides(job: Job, now: float) -> bool:
    """Whether a job has a say at all: it is enabled, or an override that has not ended."""
    return now < job.until if isinstance(job, Override) else job.enabled


def _is_override(job: Job, pin: int) -> bool:
    return isinstance(job, Override) and job.pin == pin


def _named(device: Device, jobs: tuple[Job, ...], name: str) -> Timer | Threshold:
    for job in jobs:
        if not isinstance(job, Override) and job.name == name:
            return job
    there = ", ".join(job.name for job in jobs if not isinstance(job, Override)) or "none"
    raise UsageError(f"{device.name} has no job named {parse.quoted(name)}; it has: {there}.")


def _require_pin(view: View, pin: int) -> None:
    """Refuses a pin that no job may govern on this board."""
    for pins, what in (
        (INPUT_ONLY_PINS, "can only be read (34–39)"),
        (FLASH_PINS, "holds the board's flash (6–11)"),
        (CONSOLE_PINS, "is the serial console (1 and 3)"),
    ):
        if pin in pins:
            raise UsageError(
                f"PIN {pin} of {view.device.name} {what}; choose one that can be written, such as 4."
            )
    parse.known_pins((pin,), view.device, view.reading.decoded().gpio if view.reading else None)


def _refuse_contradiction(new: Timer | Threshold, jobs: tuple[Job, ...]) -> None:
    """Refuses what would fight with another job of the same pin for ever."""
    from espnet.windows import parse_start

    for old in jobs:
        if isinstance(old, Override) or old.pin != new.pin or not old.enabled:
            continue
        if isinstance(old, Threshold) and isinstance(new, Threshold) and old.mode != new.mode:
            raise UsageError(
                f"{new.name} ({new.mode}) and {old.name} ({old.mode}) would drive pin {new.pin} in "
                "opposite directions; remove one, or add --anyway."
            )
        if (
            isinstance(old, Timer)
            and isinstance(new, Timer)
            and old.invert != new.invert
            and parse_start(old.start) == parse_start(new.start)
            and (old.hours, old.days, old.zone, old.lat, old.lon)
            == (new.hours, new.days, new.zone, new.lat, new.lon)
        ):
            raise UsageError(
                f"{new.name} and {old.name} have the same window on pin {new.pin}, one inverted: the "
                "pin would always be on; remove one, or add --anyway."
            )
