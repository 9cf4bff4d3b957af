"""The words after `espcli device NAME`."""

from collections.abc import Callable
from typing import cast

import msgspec

from espnet.cli import parse
from espnet.cli.act import Act, as_typed, verb
from espnet.cli.credentials import CredentialWords
from espnet.cli.describe import describe
from espnet.cli.direct import RequestWords
from espnet.cli.history import HistoryWords
from espnet.cli.jobs import JobWords
from espnet.cli.render import Lines, Records, Report, Shown
from espnet.cli.session import Session
from espnet.cli.upkeep import SettingsWords
from espnet.errors import NoReading, UsageError
from espnet.model import ADC_PINS, INTERVAL_RANGE_S, Adc, Device, Reading


class DeviceWords(JobWords, HistoryWords):
    """Shows all that is known of a device, or does with it what COMMAND says.

    `update` polls the board now, and other words may follow it:
    espcli device porch update - get_f
    """

    def __init__(
        self, session: Session, name: str, before: tuple[Callable[[], None], ...] = ()
    ) -> None:
        self._session, self._name, self._before = session, name, before

    def _bare(self) -> Act:
        return cast(Act, self._overview())

    @verb
    def _overview(self) -> Lines:
        view = self._session.store.view(self._name)
        return Lines(describe(view, self._session.now))

    # --- reading --------------------------------------------------------------------------------

    @verb
    def get_f(self) -> float:
        """Shows the board's own temperature in °F.

        It is that of the last poll; where that is older than three intervals, this is an error.
        """
        f = self._fresh().decoded().f
        if f is None:
            raise NoReading(f"The chip of {self._name} has no temperature sensor.")
        return f

    @verb
    def get_gpio(self) -> Lines:
        """Shows the level of every pin, 0 or 1.

        They are those of the last poll; where that is older than three intervals, this is an error.
        """
        return Lines({str(pin): level for pin, level in self._fresh().decoded().gpio.items()})

    @as_typed
    def update(self) -> "DeviceWords":
        """Polls the board now, under its lock; another word may follow.

        The reading is stored and its samples are queued, as by `espcli run`. Without another word
        the device is shown.

        Example: espcli device porch update - get_f
        """
        return DeviceWords(self._session, self._name, (*self._before, self._update))

    def _update(self) -> None:
        from espnet.cli.poll import update

        update(self._session, self._name)

    @verb
    def lock(self) -> Lines:
        """Shows who holds the board's lock, and for how long at most.

        Whoever polls a board or writes to it holds its lock meanwhile: collectors and `update` do.
        """
        device = self._session.store.device(self._name)
        state = self._session.store.lock_state(device)
        if state is None:
            return Lines({"locked": False})
        return Lines({"locked": True, "holder": state.holder, "left_s": state.left_s})

    @verb
    def crash(self) -> Report:
        """Shows why the board restarted last, and its last crash.

        The board is asked now, past its lock. A crash survives resets: its traceback, how long ago it
        was, and the build that it happened in, where the board knows.
        """
        from espnet.cli.upkeep import crash

        return crash(self._session, self._name)

    @verb
    def restart(self) -> Shown:
        """Restarts the board.

        Leased pins go to their safe levels, the others boot low; jobs set them again at the next poll.
        """
        from espnet.cli.upkeep import restart

        return restart(self._session, self._name)

    @property
    def settings(self) -> SettingsWords:
        """Shows or changes the board's own settings (see its own --help)."""
        return SettingsWords(self._session, self._name)

    @property
    def requests(self) -> RequestWords:
        """Calls the board directly, past its lock (see its own --help)."""
        return RequestWords(self._session, self._name, self._before)

    @property
    def credentials(self) -> CredentialWords:
        """Shows who may control the board (see its own --help)."""
        return CredentialWords(self._session, self._name)

    # --- settings -------------------------------------------------------------------------------

    @verb
    def interval(self, every: str) -> Shown:
        """Sets how often this device is polled.

        EVERY   seconds between two polls, 0.1 to 86400; or default: as often as the fleet

        Example: espcli device porch interval 60
        """
        interval_s = (
            None if every == "default" else parse.seconds(every, "EVERY", *INTERVAL_RANGE_S)
        )
        device = self._change(lambda old: msgspec.structs.replace(old, interval_s=interval_s))
        text = "as often as the fleet" if interval_s is None else f"every {interval_s:g} s"
        return Shown({"interval_s": interval_s}, f"{device.name} is polled {text}.")

    @verb
    def tags(self, tags: str) -> Shown:
        """Sets the tags of the device's samples.

        TAGS   all of them with commas between, each beginning with a letter; or none

        Example: espcli device porch tags room:attic,floor:2
        """
        wanted = () if tags == "none" else parse.tags(tags)
        device = self._change(lambda old: msgspec.structs.replace(old, tags=wanted))
        return Shown(
            {"tags": list(wanted)}, f"{device.name} has the tags {', '.join(wanted) or '(none)'}."
        )

    @verb
    def report_pins(self, pins: str) -> Shown:
        """Chooses the pins whose levels become samples.

        Every pin of every board is a metric that Datadog bills, so none is sent unasked but those
        that have a job or an override. `espcli cardinality` counts them.

        PINS   GPIO numbers with commas between; or none

        Example: espcli device porch report_pins 2,4
        """
        wanted = () if pins == "none" else parse.pins(pins)
        self._require_pins(wanted)
        device = self._change(lambda old: msgspec.structs.replace(old, report_pins=wanted))
        return Shown(
            {"report_pins": list(wanted)},
            f"{device.name} reports {_pins_text(wanted)}.",
        )

    @verb
    def add_dht22(self, sensor: str, pin: str) -> Shown:
        """Adds a DHT22 sensor that hangs on a pin; every poll reads it.

        SENSOR   a name for it: 1 to 64 printable characters without spaces
        PIN      the GPIO number of its data line

        Example: espcli device porch add_dht22 air 4
        """
        parse.name(sensor, "sensor's name")
        number = parse.pin(pin)
        self._require_pins((number,))

        def add(old: Device) -> Device:
            if sensor in old.dht22:
                raise UsageError(
                    f"{old.name} has a DHT22 named {sensor!r} on pin {old.dht22[sensor]}; "
                    f"`remove_dht22 {sensor}` first, or choose another name."
                )
            for other, taken in old.dht22.items():
                if taken == number:
                    raise UsageError(f"Pin {number} of {old.name} has the DHT22 {other!r} already.")
            return msgspec.structs.replace(old, dht22={**old.dht22, sensor: number})

        device = self._change(add)
        return Shown(
            {"sensor": sensor, "pin": number},
            f"{device.name} reads the DHT22 {sensor} on pin {number} at every poll.",
        )

    @verb
    def remove_dht22(self, sensor: str) -> Shown:
        """Forgets a DHT22 sensor: polls no longer read it.

        Example: espcli device porch remove_dht22 air
        """

        def remove(old: Device) -> Device:
            self._require_sensor(old, sensor)
            return msgspec.structs.replace(
                old, dht22={name: pin for name, pin in old.dht22.items() if name != sensor}
            )

        device = self._change(remove)
        return Shown({"sensor": sensor}, f"{device.name} no longer reads the DHT22 {sensor}.")

    @verb
    def list_dht22(self) -> Records:
        """Lists the DHT22 sensors with what they said at the last poll.

        Temperatures are °C, humidities %.
        """
        view = self._session.store.view(self._name)
        stale = view.state(self._session.now) in ("offline", "new")
        rows = []
        for sensor, pin in view.device.dht22.items():
            climate = view.reading.dht22.get(sensor) if view.reading else None
            problem = view.reading.dht22_errors.get(sensor) if view.reading else None
            if stale:
                climate, problem = None, "the device is offline"
            rows.append(
                {
                    "sensor": sensor,
                    "pin": pin,
                    "temp_c": climate.temp if climate else None,
                    "humidity": climate.humidity if climate else None,
                    "problem": problem if problem or climate else "not read yet",
                }
            )
        return Records(
            rows,
            ("sensor", "pin", "temp_c", "humidity", "problem"),
            ""
            if rows
            else f"{self._name} has no DHT22; "
            f"add one: `espcli device {self._name} add_dht22 SENSOR PIN`.",
        )

    @verb
    def get_dht22(self, sensor: str) -> Lines:
        """Shows a DHT22's temperature in °C and humidity in %.

        They are those of the last poll; where that is older than three intervals, this is an error.

        Example: espcli device porch get_dht22 air
        """
        device = self._session.store.device(self._name)
        self._require_sensor(device, sensor)
        reading = self._fresh()
        climate = reading.dht22.get(sensor)
        if climate is None:
            problem = reading.dht22_errors.get(sensor, "it was not read yet")
            raise NoReading(f"The DHT22 {sensor} of {self._name} has no reading: {problem}.")
        return Lines({"temp": climate.temp, "humidity": climate.humidity})

    @verb
    def add_adc(self, read_pin: str, power_pin: str = "", samples: str = "8") -> Shown:
        """Reads an ADC pin at every poll: the mean, which jobs may look at.

        READ_PIN    the GPIO number that is measured: 32 to 39
        POWER_PIN   a pin that is high meanwhile, where the sensor has one
        SAMPLES     how many are taken, 1 to 100 (8)

        Example: espcli device porch add_adc 36 25
        """
        number, power = parse.pin(read_pin), parse.pin(power_pin) if power_pin else None
        how = Adc(power, parse.count(samples, "SAMPLES", 1, 100))
        if number not in ADC_PINS:
            raise UsageError(f"Pin {number} has no ADC beside Wi-Fi; choose one of 32 to 39.")
        self._require_pins((number,) if power is None else (number, power))
        device = self._change(
            lambda old: msgspec.structs.replace(old, adc={**old.adc, number: how})
        )
        return Shown(
            {"pin": number, **msgspec.to_builtins(how)},
            f"{device.name} reads the ADC of pin {number} at every poll.",
        )

    @verb
    def remove_adc(self, read_pin: str) -> Shown:
        """Stops reading an ADC pin.

        Example: espcli device porch remove_adc 36
        """
        number = parse.pin(read_pin)

        def remove(old: Device) -> Device:
            if number not in old.adc:
                there = ", ".join(map(str, sorted(old.adc))) or "none"
                raise UsageError(
                    f"{old.name} does not read the ADC of pin {number}; it reads: {there}."
                )
            return msgspec.structs.replace(
                old, adc={pin: how for pin, how in old.adc.items() if pin != number}
            )

        device = self._change(remove)
        return Shown({"pin": number}, f"{device.name} no longer reads the ADC of pin {number}.")

    # --- help for the above ---------------------------------------------------------------------

    def _change(self, how: Callable[[Device], Device]) -> Device:
        return self._session.store.change(self._name, how, now=self._session.now)

    def _fresh(self) -> Reading:
        """The last reading, if it may still be called true."""
        view = self._session.store.view(self._name)
        now = self._session.now
        if view.reading is not None and view.reading.is_fresh(now):
            return view.reading
        if view.reading is None:
            seen = "was never read"
        else:
            seen = f"was last read {now - view.reading.at:.0f} s ago"
        why = f": it {view.fault.what}" if view.fault else ""
        raise NoReading(
            f"{self._name} {seen}{why}; `espcli device {self._name} update` asks it now."
        )

    def _require_pins(self, pins: tuple[int, ...]) -> None:
        view = self._session.store.view(self._name)
        parse.known_pins(pins, view.device, view.reading.decoded().gpio if view.reading else None)

    def _require_sensor(self, device: Device, sensor: str) -> None:
        if sensor not in device.dht22:
            there = ", ".join(sorted(device.dht22)) or "none"
            raise UsageError(f"{device.name} has no DHT22 named {sensor!r}; it has: {there}.")


def _pins_text(pins: tuple[int, ...]) -> str:
    if not pins:
        return "no pins"
    return f"pin{'s' if len(pins) > 1 else ''} {', '.join(map(str, pins))}"
