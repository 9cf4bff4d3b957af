"""The words of the command line's first level."""

import functools
import sys
from typing import Any

import msgspec

from espnet.cli import parse
from espnet.cli.act import as_typed, verb
from espnet.cli.board import BoardWords
from espnet.cli.credentials import SealWords, refuse_closed
from espnet.cli.describe import describe
from espnet.cli.device import DeviceWords
from espnet.cli.render import Exit, Lines, Records, Report, Shown, Told
from espnet.cli.samples import SampleWords
from espnet.cli.session import Session
from espnet.cli.updating import UpdateWords
from espnet.errors import UsageError

#: What `devices` and empty answers advise.
NO_DEVICES = (
    "No devices are registered yet. Register one: `espcli register ADDRESS NAME`; "
    "without a board: `espcli simulate 3`."
)
#: What `redis` shows only where sentinels find it.
SENTINEL_ROWS = ("primary", "sentinels")


class Commands(SampleWords, SealWords, UpdateWords):
    """EspNet: a manager of ESP32 boards that run MicroPython."""

    def __init__(self) -> None:
        self._session = Session()

    # --- registry -------------------------------------------------------------------------------

    @verb
    def register(
        self,
        address: str,
        name: str,
        *,
        tags: str = "",
        replace: bool = False,
        ask: bool = False,
        private: bool = False,
        open: bool = False,
        again: bool = False,
    ) -> Shown:
        """Adds the board at ADDRESS to the fleet, and claims it.

        The board is called first; nothing is stored unless it answers as a board does. A fresh board is
        given a random password: from then on only who has it may switch its pins
        (`espcli device NAME credentials`). A board that moved is registered again under its name, with its
        new address, and keeps its settings and its password.

        ADDRESS     HOST or HOST:PORT, without http://; IPv6 in brackets: [fd00::17]:80
        NAME        1 to 64 printable characters without spaces, not beginning with '-'
        --tags      tags of every sample of this device, such as room:attic,floor:2
        --replace   this board takes over a name with its settings, or an address, that was
                    another board's
        --ask       asks for the password that the board has, or shall have; without a terminal, the first
                    line of standard input is it
        --private   reading takes the password, too
        --open      claims nothing: everybody on the network may go on switching the board
        --again     the board had a password, and you made it open over USB: it is given a new one

        Example: espcli register 192.168.1.17 porch --tags room:outside
        """
        from espnet.cli import claiming

        address, name = parse.address(address), parse.name(name)
        own_tags = parse.tags(tags) if tags else ()
        if open and (ask or private or again):
            raise UsageError(
                "--open goes alone: --ask, --private and --again are about a password."
            )
        stored, status = claiming.register(
            self._session,
            address,
            name,
            own_tags,
            claiming.How(
                private=bool(private),
                again=bool(again),
                typed=claiming.typed_password() if ask else None,
            ),
            replace=bool(replace),
            leave_open=bool(open),
        )
        return Shown(
            {**msgspec.to_builtins(stored), "claimed": bool(status.claimed)},
            f"Registered {stored.name}: board {stored.id} at {stored.address}. "
            + claiming.account(stored, status),
        )

    @verb
    def unregister(self, name: str, *, forget: bool = False) -> Shown:
        """Forgets a device with everything that was stored of it.

        The board itself is not touched, and can be registered again: for that its password is kept.

        --forget   the password, too: a claimed board can then be controlled by nobody who did not note what
                   `espcli device NAME credentials show` shows, until a USB cable makes it open

        Example: espcli unregister porch
        """
        device = self._session.store.remove(name, forget=bool(forget))
        if forget:
            rest = " Its password is gone, too."
        else:
            rest = " Its password is kept, in case it comes back." if device.credential else ""
        return Shown(
            {"id": device.id, "name": device.name},
            f"Unregistered {device.name} (board {device.id}).{rest}",
        )

    @verb
    def discover(self, *, seconds: str = "65", register: bool = False, tag: str = "") -> Report:
        """Lists the boards that speak: where they are, who may control them.

        Boards tell their network where they are when they get an address, and once a minute. What
        they say is a hint: whoever is on that network can say anything. A registered board that says
        another address is shown with the one that it had; `espcli run` follows it by itself.

        --seconds    how long it listens, 1 to 3600 (65: every board speaks within that)
        --register   registers and claims those that are not yet registered, under their own names;
                     where another one has the name, the end of the id is added. Exit code 1 if one
                     of them could not be
        --tag        a tag for each of those, such as room=attic; several with commas between

        Example: espcli discover --register --tag site=farm
        """
        from espnet.cli.discover import discover

        wait_s = parse.seconds(seconds, "--seconds", 1, 3600)
        if tag and not register:
            raise UsageError("--tag is for those that are registered: add --register.")
        tags = parse.tags(tag.replace("=", ":")) if tag else ()
        return discover(self._session, seconds=wait_s, register=bool(register), tags=tags)

    @verb
    def register_all(self, file: str, *, tag: str = "") -> Report:
        """Adds every board that FILE lists to the fleet, and claims it.

        As `register` does, many at once; a board that does not answer costs nobody else. What is
        registered already is left as it is, so the command may be repeated. For boards in the same
        network `espcli discover --register` needs no list.

        FILE    a board a line: ADDRESS, or ADDRESS NAME, or JSON as `espcli simulate --json` prints it;
                lines that begin with # say nothing; /dev/stdin is what another program prints. Without
                a name a board is espnet- and the last six digits of its id. Exit code 1 if a board
                could not be added
        --tag   a tag for each of those that are new, such as room=attic; several with commas between

        Example: espcli register_all boards.txt --tag site=farm
        """
        from espnet.cli import enroll

        tags = parse.tags(tag.replace("=", ":")) if tag else ()
        return enroll.register_all(self._session, enroll.read(file), tags)

    @verb
    def rename(self, name: str, new_name: str) -> Shown:
        """Gives a device another name; everything else stays as it is.

        Example: espcli rename porch veranda
        """
        parse.name(new_name)
        device = self._session.store.change(
            name, lambda old: msgspec.structs.replace(old, name=new_name), now=self._session.now
        )
        return Shown({"id": device.id, "name": device.name}, f"{name} is {device.name} now.")

    @verb
    def devices(self) -> Records:
        """Lists the fleet: state, temperature, last poll, and what is wrong.

        online    the last reading is at most three intervals old
        late      so it is, but the latest poll failed
        offline   the reading is too old; what it said is shown still
        new       never polled

        `access` is who may switch the board: everybody (open), who has its password (claimed; private where
        reading takes it, too), others than EspNet (denied).

        A narrow terminal shows fewer columns, `--json` always everything.
        """
        now = self._session.now
        views = self._session.store.views()
        hint = ""
        if not views:
            hint = NO_DEVICES
        elif not self._session.store.collectors(now, within_s=60):
            hint = "No collector is running: `espcli run` polls the boards."
        return Records(
            [describe(view, now) for view in views],
            (
                *("name", "state", "f", "pins_high", "age_s", "access", "version"),
                *("address", "id", "problem"),
            ),
            hint,
            spare=("id", "version", "pins_high", "access", "address"),
        )

    @verb
    def ids(self) -> Records:
        """Lists every device's name and hardware id."""
        rows = [{"name": d.name, "id": d.id} for d in self._session.store.devices()]
        return Records(rows, ("name", "id"), "" if rows else NO_DEVICES)

    @verb
    def is_online(self, name: str) -> bool:
        """Says True or False: whether the device's last reading is fresh.

        It is fresh while it is at most three of the device's intervals old.
        """
        return self._session.store.view(name).state(self._session.now) in ("online", "late")

    @as_typed
    def device(self, name: str) -> DeviceWords:
        """Shows one device, or does something with it (see its own --help)."""
        return DeviceWords(self._session, name)

    @property
    def board(self) -> BoardWords:
        """Does something with the board on the USB cable (see its own --help)."""
        return BoardWords(self._session)

    # --- jobs ---------------------------------------------------------------------------------------

    @verb
    def why(self, name: str, pin: str) -> Shown:
        """Explains a pin: what it is, what it should be, and who says so.

        Example: espcli why porch 4
        """
        from espnet.cli.explain import explained

        view = self._session.store.view(name)
        data, text = explained(self._session, view, parse.pin(pin))
        return Shown(data, text)

    @verb
    def plan(self, name: str, *, days: str = "7", readings: str = "") -> Records:
        """Shows what a device's jobs will do in the days to come.

        Inputs stay as they are now, unless --readings gives what they were or will be. Nothing is
        written.

        --days 7          how far ahead: 1 to 366
        --readings FILE   recorded inputs, one JSON object a line:
                          {"at": UNIX_SECONDS, "inputs": {"porch.dht22.air.temp": 19.5}}

        Example: espcli plan porch --days 2
        """
        from espnet.cli.explain import planned

        view = self._session.store.view(name)
        far = parse.count(days, "--days", 1, 366)
        rows = planned(self._session, view, far, readings)
        hint = "" if rows else f"{name} has no jobs, so nothing is planned."
        return Records(rows, ("at", "pin", "state", "job", "why"), hint)

    # --- the fleet at work ----------------------------------------------------------------------

    @verb
    def run(
        self,
        heartbeat: str = "1",
        *,
        device_update_interval: str = "",
        device_requests_timeout: str = "",
        metric_upload_interval: str = "",
        sinks: str = "",
        prometheus: str = "",
        shard: str = "",
        log_format: str = "",
        anyway: bool = False,
    ) -> Exit:
        """Polls the fleet and uploads its samples until it is stopped.

        Ctrl-C or SIGTERM stop it in order. Any number of `run`s on any machines share the work.
        Samples go to the sinks that --sinks or ESPNET_SINKS name, else to Datadog when
        DATADOG_API_KEY is set, else they wait in Redis.

        HEARTBEAT                   how many times a second the schedule is looked at (1)
        --device_update_interval    seconds between two polls of a device (10)
        --device_requests_timeout   seconds of patience with one request to a board (2)
        --metric_upload_interval    seconds between two uploads (15)
        --sinks                     datadog, dogstatsd, prometheus, file, console, MODULE:CLASS, or none
        --prometheus                serves a page for Prometheus at this address (127.0.0.1:9469)
        --shard                     polls the devices with the tag shard:NAME, and no others
        --log_format                one event a line, for people (text) or for machines (json)
        --anyway                    starts also above ESPNET_MAX_METRICS (see `espcli cardinality`), and
                                    where the passwords of some boards do not open (they are left out)

        Example: espcli run --device_update_interval 30
        """
        from espnet import config, daemon, server

        settings = config.override(
            self._session.config,
            {
                "interval_s": ("--device_update_interval", device_update_interval),
                "timeout_s": ("--device_requests_timeout", device_requests_timeout),
                "upload_interval_s": ("--metric_upload_interval", metric_upload_interval),
                "sinks": ("--sinks", sinks),
                "prometheus": ("--prometheus", prometheus),
                "shard": ("--shard", shard),
                "log_format": ("--log_format", log_format),
            },
        )
        beats = parse.heartbeat(heartbeat)
        daemon.configure_logging(settings.log_format)
        redis = self._session.server
        if not anyway:
            refuse_closed(self._session.store)
        if not anyway and settings.max_metrics is not None:
            from espnet.cli.cardinality import refuse_too_many

            refuse_too_many(self._session.store, settings, self._session.now)
        daemon.Daemon(
            settings,
            redis.url,
            holder=config.holder("collector", settings.shard),
            heartbeat_hz=beats,
            out=sys.stdout,
            revive=functools.partial(server.find, settings.redis_url, settings.data_dir)
            if redis.kind == "embedded"
            else None,
        ).run()
        return Exit(0)

    @verb
    def cardinality(self, *, add: str = "", remove: str = "") -> Report:
        """Counts the metrics that you pay for, now and after a change.

        Datadog bills every metric with every combination of tags that it saw in an hour: a renamed
        board counts twice in that hour. All registered boards count, as if they and all their sensors
        answered. Exit code 1 when the number, now or after the change, is above ESPNET_MAX_METRICS.

        --add WHAT      gpio:NAME:PIN, adc:NAME:PIN, dht22:NAME:SENSOR, tag:NAME:TAG, or
                        boards:NAME:COUNT for so many more boards like NAME; several with commas
                        between. Nothing is changed: it shows what would be
        --remove WHAT   the same without boards, and device:NAME for a whole board

        Example: espcli cardinality --add gpio:porch:2,boards:porch:10
        """
        from espnet.cli.cardinality import report

        session = self._session
        return report(session.store, session.config, session.now, add, remove)

    @verb
    def doctor(self, *, here: bool = False) -> Report:
        """Looks at all of it and says what is wrong, and what to do next.

        Redis, collectors, devices, the queue, every sink with its books, and the clocks. No board is
        asked and nothing is changed.

        Exit code 0: nothing needs a person; there may be remarks. 1: something does. 3: Redis cannot
        be reached, or says no more; what is known is shown all the same.

        --here   only whether a collector of this machine is at work: what may restart a service. Exit
                 code 0: one has claimed within two minutes; 1: none has; 3: Redis does not tell

        Example: espcli doctor --json
        """
        if here:
            from espnet.cli import here as own

            return own.report(self._session)
        from espnet.cli import doctor
        from espnet.cli.facts import gather

        return doctor.report(gather(self._session))

    @verb
    def simulate(
        self,
        count: str,
        *,
        seed: str = "1",
        heap: str = "112K",
        serial: bool = False,
        static: bool = False,
        beacons: str = "8469",
        keep: str = "",
    ) -> Told:
        """Starts COUNT boards without hardware, running the real firmware.

        Prints each board's id, address and control socket when it answers; Ctrl-C ends them all.

        COUNT      how many boards, 1 to 5000; with --static to 10000
        --seed     another number makes other boards, with other ids (1)
        --heap     memory of each board: 112K is what an ESP32 has (112K), 188K its hard limit
        --serial   fresh from the box, on a serial line each, for `espcli board`, esptool and mpremote
        --static   light boards: no process each, and no updates, settings or page; for large fleets
        --beacons  the port of this machine at which they say where they are, as `espcli discover`
                   hears it (8469); off: they are silent
        --keep     the folder that keeps their files, so that the next start has the same boards
                   with what they know; without it they are new each time
        --json     one JSON object a line: id, address, control; with --serial port and image, too

        Example: espcli simulate 3, then in another terminal espcli register ADDRESS porch
        """
        from espnet.cli.simulate import run

        boards = parse.count(count, "COUNT", 1, 10_000 if static else 5000)
        number = parse.count(seed, "--seed", 0, 10**9)
        port = None if beacons == "off" else parse.count(beacons, "--beacons", 1, 65535)
        if static:
            from espnet.cli.light import run_light

            if serial or heap != "112K" or keep:
                raise UsageError(
                    "Light boards have no serial line, no heap and no files: --static goes alone."
                )
            return Told(lambda emit: run_light(emit, boards, number, port))
        return Told(lambda emit: run(emit, boards, number, heap, bool(serial), port, keep))

    @verb
    def demo(self, *, seconds: str = "") -> Exit:
        """Shows it all at work: boards, Redis, collector, a Datadog stand-in.

        Needs no hardware and no account, and touches nothing of yours; Ctrl-C ends it.

        --seconds   ends by itself after 5 to 86400 seconds; exit code 1 if anything was lost

        Example: espcli demo --seconds 20
        """
        from espnet.cli.demo import demo

        return Exit(demo(parse.seconds(seconds, "--seconds", 5, 86_400) if seconds else None))

    @verb
    def redis(self, action: str = "show") -> Any:
        """Says which Redis is used and where its data lies.

        ACTION   show (the default), or stop: ends the embedded server, whose data is kept; the next
                 command starts it again

        Example: espcli redis stop
        """
        from espnet import server

        if action == "show":
            told = server.describe(self._session.server)
            if told["sentinels"] is None:
                return Lines(told, shown={k: v for k, v in told.items() if k not in SENTINEL_ROWS})
            from espnet.cli.amounts import sentinels_told

            return Lines(told, shown=told | {"sentinels": sentinels_told(told["sentinels"])})
        if action != "stop":
            raise UsageError(f"`espcli redis` knows show and stop, not {parse.quoted(action)}.")
        config = self._session.config
        if config.redis_url:
            raise UsageError(
                f"{server.redacted(config.redis_url)} is not EspNet's own; "
                "stop it where it was started."
            )
        stopped = server.stop(config.data_dir)
        return Shown(
            {"stopped": stopped},
            "The embedded Redis has ended; its data is kept."
            if stopped
            else "No embedded Redis was running.",
        )
