"""The words of the command line's first level."""

import functools
from typing import Any

import msgspec

from espnet import server
from espnet.cli import parse
from espnet.cli.act import verb
from espnet.cli.device import DeviceWords, describe
from espnet.cli.poll import ask
from espnet.cli.render import Exit, Lines, Records, Shown, Told
from espnet.cli.session import Session
from espnet.errors import UsageError
from espnet.model import Device, Reading, phase
from espnet.server import redacted

#: What `devices` and empty answers advise.
NO_DEVICES = (
    "No devices are registered yet. Register one: `espcli register ADDRESS NAME`; "
    "without a board: `espcli simulate 3`."
)


class Commands:
    """EspNet: a manager of ESP32 boards that run MicroPython."""

    def __init__(self) -> None:
        self._session = Session()

    # --- registry -------------------------------------------------------------------------------

    @verb
    def register(self, address: str, name: str, tags: str = "", replace: str = "false") -> Shown:
        """Adds the board at ADDRESS to the fleet under NAME.

        The board is called first; nothing is stored unless it answers as a board does. ADDRESS is
        HOST or HOST:PORT. A board that moved is registered again under its name.

        --tags room:attic,floor:2   tags of every sample of this device
        --replace                   this board takes over the name and the settings it had, or the
                                    address that was another's

        Example: espcli register 192.168.1.17 porch --tags room:outside
        """
        session = self._session
        address, name = parse.address(address), parse.name(name)
        tag_tuple, moves = parse.tags(tags), parse.flag(replace, "--replace")
        began = session.clock.monotonic()
        status, body = ask(session, address)
        now = session.now
        device = Device(id=status.id, name=name, address=address, tags=tag_tuple, registered_at=now)
        reading = Reading(
            at=now,
            poll_s=session.clock.monotonic() - began,
            interval_s=session.config.interval_s,
            collector=session.holder,
            status=msgspec.Raw(body),
        )
        first_due = now + phase(device.id) * session.config.interval_s
        stored = session.store.add(device, reading, first_due=first_due, replace=moves)
        return Shown(
            msgspec.to_builtins(stored),
            f"Registered {stored.name}: board {stored.id} at {stored.address}.",
        )

    @verb
    def unregister(self, name: str) -> Shown:
        """Forgets a device with everything that was stored of it.

        The board itself is not touched, and can be registered again.
        """
        device = self._session.store.remove(name)
        return Shown(
            {"id": device.id, "name": device.name},
            f"Unregistered {device.name} (board {device.id}).",
        )

    @verb
    def rename(self, name: str, new_name: str) -> Shown:
        """Gives a device another name; everything else stays as it is."""
        parse.name(new_name)
        device = self._session.store.change(
            name, lambda old: msgspec.structs.replace(old, name=new_name), now=self._session.now
        )
        return Shown({"id": device.id, "name": device.name}, f"{name} is {device.name} now.")

    @verb
    def devices(self) -> Records:
        """Lists the fleet: state, temperature, last poll, and what is wrong."""
        now = self._session.now
        views = self._session.store.views()
        rows = [describe(view, now) for view in views]
        hint = NO_DEVICES
        if rows and not self._session.store.collectors(now, within_s=60):
            hint = "No collector is running: `espcli run` polls the boards."
        return Records(
            rows,
            ("name", "state", "f", "pins_high", "last_seen", "address", "id", "problem"),
            hint,
        )

    @verb
    def ids(self) -> Records:
        """Lists every device's name and hardware id."""
        rows = [{"name": d.name, "id": d.id} for d in self._session.store.devices()]
        return Records(rows, ("name", "id"), NO_DEVICES)

    @verb
    def is_online(self, name: str) -> bool:
        """True when the device's last reading is fresh: at most three of its intervals old."""
        return self._session.store.view(name).state(self._session.now) in ("online", "late")

    def device(self, name: str) -> DeviceWords:
        """Shows one device, or does something with it: `espcli device NAME --help` lists what."""
        return DeviceWords(self._session, name)

    # --- the fleet at work ----------------------------------------------------------------------

    @verb
    def run(
        self,
        heartbeat: str = "1",
        device_update_interval: str = "",
        device_requests_timeout: str = "",
        metric_upload_interval: str = "",
        log_format: str = "",
    ) -> None:
        """Polls the fleet and uploads its samples until it is stopped (Ctrl-C or SIGTERM).

        HEARTBEAT is how many times a second the schedule is looked at (1). Any number of `run`s on
        any machines share the work.

        --device_update_interval S    seconds between two polls of a device (10)
        --device_requests_timeout S   patience with one request to a board (2)
        --metric_upload_interval S    seconds between two uploads (15)
        --log_format text|json        one event a line, for people or for machines

        Samples go to Datadog when DATADOG_API_KEY is set; until then they wait in Redis.
        """
        from espnet import config, daemon

        settings = config.override(
            self._session.config,
            {
                "interval_s": ("--device_update_interval", device_update_interval),
                "timeout_s": ("--device_requests_timeout", device_requests_timeout),
                "upload_interval_s": ("--metric_upload_interval", metric_upload_interval),
                "log_format": ("--log_format", log_format),
            },
        )
        beats = parse.heartbeat(heartbeat)
        daemon.configure_logging(settings.log_format)
        redis = self._session.server
        daemon.Daemon(
            settings,
            redis.url,
            holder=config.holder("collector"),
            heartbeat_hz=beats,
            revive=functools.partial(server.find, settings.redis_url, settings.data_dir)
            if redis.kind == "embedded"
            else None,
        ).run()

    @verb
    def simulate(self, count: str, seed: str = "1", heap: str = "112K") -> Told:
        """Starts COUNT boards without hardware: the real firmware on MicroPython's unix port.

        Prints each board's id, address and control socket when it answers; Ctrl-C ends them all.

        --seed N      other boards, with other ids (1)
        --heap 112K   the heap of each board: 112K is what an ESP32 has, 188K its hard limit
        --json        one JSON object a line: id, address, control

        Register one: espcli register ADDRESS NAME
        """
        from espnet.cli.simulate import run

        boards = parse.count(count, "COUNT", 1, 5000)
        number = parse.count(seed, "--seed", 0, 10**9)
        return Told(lambda emit: run(emit, boards, number, heap))

    @verb
    def demo(self, seconds: str = "") -> Exit:
        """Three simulated boards, a Redis, a Datadog stand-in and a collector, live in the terminal.

        --seconds N   ends by itself, with a summary; exit code 1 if anything was lost
        """
        from espnet.cli.demo import demo
        from espnet.config import seconds as seconds_of

        return Exit(demo(seconds_of("--seconds", seconds, 5, 86_400) if seconds else None))

    @verb
    def redis(self, action: str = "show") -> Any:
        """Says which Redis is used and where its data lies.

        `espcli redis stop` ends the embedded server; the next command starts it again.
        """
        if action == "show":
            return Lines(server.describe(self._session.server))
        if action != "stop":
            raise parse.refuse("redis", action, ("show", "stop"))
        config = self._session.config
        if config.redis_url:
            raise UsageError(
                f"{redacted(config.redis_url)} is not EspNet's own; stop it where it was started."
            )
        stopped = server.stop(config.data_dir)
        return Shown(
            {"stopped": stopped},
            "The embedded Redis has ended; its data is kept."
            if stopped
            else "No embedded Redis was running.",
        )

    # --- samples --------------------------------------------------------------------------------

    @verb
    def init_consumers(self) -> Shown:
        """Makes the Datadog sink a reader of the sample stream, from its beginning.

        `run` does this by itself.
        """
        from espnet.daemon import DATADOG

        created = self._session.store.create_group(DATADOG)
        return Shown(
            {"sink": DATADOG, "created": created},
            f"The sink {DATADOG} reads the samples now."
            if created
            else f"The sink {DATADOG} reads the samples already.",
        )

    @verb
    def upload_queued_metrics(self) -> Shown:
        """Sends the queued samples to Datadog now, and says what became of them."""
        from espnet.daemon import DATADOG, datadog_sink
        from espnet.errors import SinkError
        from espnet.uploader import Uploader

        session = self._session
        sink = datadog_sink(session.config)
        if sink is None:
            raise SinkError("There is no DATADOG_API_KEY; set it, the samples wait in Redis.")
        uploader = Uploader(session.store, DATADOG, sink, session.holder)
        try:
            drained = uploader.drain(session.now)
        finally:
            uploader.close()
        queued = session.store.books().queued
        if drained.reason:
            raise SinkError(
                f"{drained.accepted} samples were accepted, {queued} are kept: {drained.reason}"
            )
        return Shown(
            {"accepted": drained.accepted, "queued": queued},
            f"{drained.accepted} samples were accepted, {queued} are queued.",
        )

    @verb
    def xinfo(self) -> Lines:
        """Shows the sample stream: its length, who reads it, and where every sample went."""
        store = self._session.store
        return Lines(store.stream_info() | {"books": msgspec.to_builtins(store.books())})
