"""The shared page of one board: its wires, faults, histories and request log, as bytes in a file.

Both sides map the same file: this process, and the board's process, where the stand-in modules of
``hardware/`` read and write it. So reading a pin is reading a byte, here and there, and nobody
waits for anybody. Little-endian. ``B`` = the board writes, ``S`` = the simulator writes:

======  ====  =====================================================================================
  0     S     format version
  1     B     phase: 0 off, 1 booting, 2 listening, 3 refusing connections, 4 at the prompt
  2     S     reset cause of this boot (ESP32's numbers)
  3     B     cause of the reset that the board is asking for; 0 = none
  4     both  1 = some fault is set
  5     S     1 = refuse connections
  6     S     Wi-Fi: 0 no network, 1 any network lets the board in, 2 those of the list at 73728
  7     S     which of the two speeds holds (1728, 1744); 0 = the speed is 1 and always was
  8     B     1 = the firmware switched Wi-Fi on
  9     S     what comes after boot.py: 0 main.py, 1 main.py and then the prompt, 2 the prompt
 10     S     u16 port
 12     S     hardware id, 6 bytes
 18     S     RSSI + 256
 20     S     i16 board temperature, 1/100 °C
 24     B     u32 watchdog time-out, ms; 0 = none.  28: u32 how often it was fed
 32     B     u32 requests ever logged.  36: u32 level changes ever noted
 40     both  u32 state of the ADC noise
 44     B     u8 open connections, most ever; 46: u8 requests under way, most ever
 56     B     i64 RTC minus host clock, s
 64     both  40 pads of 16 bytes: B mode, pull, latch; S driven level (255 = by nobody);
              S u16 ADC value, u16 ADC noise, i16 DHT 1/10 °C, u16 DHT 1/10 %, u8 DHT there
704     both  8 fault slots of 128 bytes: kind, pin, u16 bytes/s, u32 count left, path, keys
1728    S     two speeds of 16 bytes: u64 1/1000, i64 offset µs; board time = machine time · speed + offset
2048    B     the RTC's memory, 2048 bytes
4096    B     ring of 256 level changes of 16 bytes: u64 monotonic µs, pin, level
8192    B     ring of 1024 requests of 64 bytes: u64 monotonic µs, u32 µs to the answer,
              u8 others under way, u8 open connections, u16 status, u8 fault, u8 n, n bytes of text
73728   S     8 access points of 128 bytes: u8 n, 32 bytes of SSID; at 33 u8 n, 64 bytes of password
74752   S     the address that the network gives the board, 4 bytes
74756   B     1 = the board took a static one, then address, mask, gateway, DNS server, 4 bytes each
74775   B     the SSID that the board is in: u8 n, 32 bytes.  74808: its host name, the same
74841   B     its country: u8 n, 2 bytes
74844   B     1 = its access point is open; 74845: authmode; 74846: u8 n, 32 bytes of SSID
74884   S     u16 port of beacons, 0 = they go nowhere
74886   S     what DNS servers answer, 74887: NTP servers (the numbers of DNS and NTP)
74888   B     u32 how often DNS was asked; 74892: u32 NTP
======  ====  =====================================================================================
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from espnet.simulator.network import Network

SIZE = 8192 + 1024 * 64 + 4096
PINS = tuple(n for n in range(40) if n not in (20, 24, 28, 29, 30, 31))
FLASH_PINS = (6, 7, 8, 9, 10, 11)

#: The phase of a board whose program was interrupted or has ended, and that has a serial line.
AT_PROMPT = 4
#: What a board does after boot.py: main.py and then the end, main.py and then the prompt, or the prompt.
PROGRAM, PROGRAM_THEN_PROMPT, PROMPT = 0, 1, 2

#: ESP32's numbers for `machine.reset_cause()`.
CAUSES = {"power": 1, "hard": 2, "watchdog": 3, "deepsleep": 4, "soft": 5}

#: The faults and their numbers on the wire; `docs/simulator.md` says what each does.
FAULTS = {
    "hang": 1,
    "hang_body": 2,
    "slow": 3,
    "http_500": 4,
    "not_json": 5,
    "truncated": 6,
    "wrong_id": 7,
    "missing_keys": 8,
    "cut": 9,
    "rst": 10,
    "reset": 11,
    "sensor": 12,
    "refuse": 13,
}

_FAULT_NAMES = {number: name for name, number in FAULTS.items()}

_MODES = {0: "unset", 1: "in", 3: "out", 7: "open_drain"}
_PULLS = {0: None, 1: "down", 2: "up", 3: "up"}
_SLOTS = range(704, 1728, 128)
_HISTORY, _HISTORY_SIZE = 4096, 256
_LOG, _LOG_SIZE = 8192, 1024
#: 2000-01-01, where a chip's clock begins when it gets power.
_RTC_START_S = 946684800
_NOBODY = 255
_FOR_EVER = 0xFFFFFFFF


@dataclass(frozen=True)
class PinState:
    """One pad as a voltmeter and the data sheet see it. ``driver``: who sets the level."""

    pin: int
    level: int
    mode: str
    pull: str | None
    driver: str
    outside: int | None
    adc: int
    adc_noise: int


@dataclass(frozen=True)
class Request:
    """One request that a board received.

    ``at_s`` is monotonic seconds of this machine; ``answered_s`` how long the firmware took, None
    while it has not answered; ``overlap`` how many others were under way; ``connections`` how many
    were open, this one included; ``fault`` what was done to it.
    """

    number: int
    at_s: float
    method: str
    path: str
    status: int
    answered_s: float | None
    overlap: int
    connections: int
    fault: str | None


@dataclass(frozen=True)
class Change:
    """The board changed the level of a pad at ``at_s`` (monotonic seconds)."""

    at_s: float
    pin: int
    level: int


class State:
    """One board's shared page; ``network`` is what lies there of its network. Every method is a few bytes of
    memory; none blocks."""

    def __init__(self, path: Path, *, board_id: str, port: int, seed: int) -> None:
        new = not path.exists() or path.stat().st_size != SIZE
        with path.open("w+b" if new else "r+b") as file:
            if new:
                file.truncate(SIZE)
            self._page = mmap.mmap(file.fileno(), SIZE)
        page = self._page
        page[0:8192] = bytes(8192)
        page[0] = 1
        struct.pack_into("<H6s", page, 10, port, bytes.fromhex(board_id))
        self.set_board_c(45)
        struct.pack_into("<I", page, 40, seed & 0x7FFFFFFF)
        for pin in range(40):
            page[64 + pin * 16 + 3] = _NOBODY
        self.network = Network(page)

    def close(self) -> None:
        self._page.close()

    # The board as a whole

    @property
    def phase(self) -> int:
        return self._page[1]

    @property
    def cause(self) -> str:
        """Why the board last started."""
        return next(name for name, n in CAUSES.items() if n == (self._page[2] or 1))

    @property
    def wanted_reset(self) -> str | None:
        """The cause of the reset that the board asked for, if it asked for one."""
        return next((name for name, n in CAUSES.items() if n == self._page[3]), None)

    def begin_boot(self, cause: str, now_s: float = 0.0) -> None:
        """Sets what a chip has after a reset: no pads configured but by a soft one.

        ``now_s``: Unix time; the clock of a chip that gets power begins in 2000.
        """
        page = self._page
        self.network.begin_boot()
        page[1], page[2], page[3] = 0, CAUSES[cause], 0
        page[8] = 0
        struct.pack_into("<II", page, 24, 0, 0)
        page[44], page[46] = 0, 0
        if cause != "soft":
            for pin in range(40):
                page[64 + pin * 16 : 67 + pin * 16] = b"\0\0\0"
        if cause == "power":
            page[2048:4096] = bytes(2048)
            struct.pack_into("<q", page, 56, _RTC_START_S - int(now_s))

    def set_course(self, course: int) -> None:
        """What comes after boot.py: one of the three above."""
        self._page[9] = course

    def set_board_c(self, celsius: float) -> None:
        struct.pack_into("<h", self._page, 20, _clamp(celsius * 100, -32768, 32767))

    @property
    def board_c(self) -> float:
        return float(struct.unpack_from("<h", self._page, 20)[0]) / 100

    @property
    def rtc_offset_s(self) -> int:
        """How far the board's clock is ahead of this machine's."""
        return int(struct.unpack_from("<q", self._page, 56)[0])

    # Time

    @property
    def speed(self) -> float:
        slot = self._page[7]
        return struct.unpack_from("<Q", self._page, 1712 + 16 * slot)[0] / 1000 if slot else 1.0

    def board_us(self, now_us: int) -> int:
        """What the board's clock for durations shows at a monotonic time of this machine."""
        slot = self._page[7]
        if not slot:
            return now_us
        milli, offset = struct.unpack_from("<Qq", self._page, 1712 + 16 * slot)
        return int(now_us * milli // 1000 + offset)

    def set_speed(self, speed: float, now_us: int) -> None:
        """From now on, the board's time passes so fast; it does not jump."""
        milli = round(speed * 1000)
        offset = self.board_us(now_us) - now_us * milli // 1000
        slot = 2 if self._page[7] == 1 else 1
        struct.pack_into("<Qq", self._page, 1712 + 16 * slot, milli, offset)
        self._page[7] = slot

    def watchdog(self) -> tuple[int, int]:
        """Time-out in ms (0 = not started) and how often it was fed."""
        timeout_ms, fed = struct.unpack_from("<II", self._page, 24)
        return timeout_ms, fed

    # Pads

    def pin(self, pin: int) -> PinState:
        mode, pull, latch, outside, adc, noise = struct.unpack_from(
            "<BBBBHH", self._page, 64 + pin * 16
        )
        if mode & 2 and not (mode == 7 and latch):
            level, driver = latch, "board"
        elif outside != _NOBODY:
            level, driver = outside, "outside"
        else:
            level, driver = pull >> 1 & 1, "pull" if pull else "nobody"
        return PinState(
            pin,
            level,
            _MODES.get(mode, "unset"),
            _PULLS.get(pull),
            driver,
            None if outside == _NOBODY else outside,
            adc,
            noise,
        )

    def drive(self, pin: int, level: int | None) -> None:
        """Connects the pad to a level from outside; None lets it float."""
        self._page[64 + pin * 16 + 3] = _NOBODY if level is None else level

    def set_adc(self, pin: int, value: float, noise: int | None = None) -> None:
        at = 64 + pin * 16 + 4
        struct.pack_into("<H", self._page, at, _clamp(value, 0, 4095))
        if noise is not None:
            struct.pack_into("<H", self._page, at + 2, _clamp(noise, 0, 4095))

    def set_dht(self, pin: int, celsius: float, humidity: float) -> None:
        struct.pack_into(
            "<hHB",
            self._page,
            64 + pin * 16 + 8,
            _clamp(celsius * 10, -32768, 32767),
            _clamp(humidity * 10, 0, 65535),
            1,
        )

    def unplug_dht(self, pin: int) -> None:
        self._page[64 + pin * 16 + 12] = 0

    def dht(self, pin: int) -> tuple[float, float] | None:
        """Temperature in °C and humidity in % that a sensor on this pad shows, if there is one."""
        celsius, humidity, there = struct.unpack_from("<hHB", self._page, 64 + pin * 16 + 8)
        return (celsius / 10, humidity / 10) if there else None

    # Faults

    @property
    def refusing(self) -> bool:
        return bool(self._page[5])

    def set_refuse(self, refuse: bool) -> None:
        self._page[5] = refuse

    def set_fault(
        self,
        kind: str,
        *,
        count: int | None = None,
        path: str = "",
        pin: int | None = None,
        bytes_per_s: int = 20,
        keys: str = "",
    ) -> bool:
        """Puts a fault into a slot, its own where it has one; False when all are taken."""
        number, text, names = FAULTS[kind], path.encode(), keys.encode()
        mine = [s for s in _SLOTS if self._fault_is(s, number, text, pin)]
        free = [s for s in _SLOTS if not self._page[s]]
        if not mine and not free:
            return False
        slot = (mine or free)[0]
        self._page[slot] = 0
        struct.pack_into(
            "<BHIB47sB71s",
            self._page,
            slot + 1,
            _NOBODY if pin is None else pin,
            bytes_per_s,
            _FOR_EVER if count is None else count,
            len(text),
            text,
            len(names),
            names,
        )
        self._page[slot] = number
        self._page[4] = 1
        return True

    def _fault_is(self, slot: int, number: int, path: bytes, pin: int | None) -> bool:
        page = self._page
        return (
            page[slot] == number
            and page[slot + 9 : slot + 9 + page[slot + 8]] == path
            and page[slot + 1] == (_NOBODY if pin is None else pin)
        )

    def clear_faults(self, kind: str | None = None) -> None:
        for slot in _SLOTS:
            if kind is None or self._page[slot] == FAULTS[kind]:
                self._page[slot] = 0
        self._page[4] = any(self._page[slot] for slot in _SLOTS)

    def faults(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = [{"fault": "refuse"}] if self.refusing else []
        for slot in _SLOTS:
            kind, pin, rate, count, n, path, k, keys = struct.unpack_from(
                "<BBHIB47sB71s", self._page, slot
            )
            if not kind:
                continue
            fault: dict[str, object] = {"fault": _FAULT_NAMES[kind]}
            if count != _FOR_EVER:
                fault["count"] = count
            if n:
                fault["path"] = path[:n].decode()
            if pin != _NOBODY:
                fault["pin"] = pin
            if _FAULT_NAMES[kind] == "slow":
                fault["bytes_per_s"] = rate
            if k:
                fault["keys"] = keys[:k].decode().split(",")
            found.append(fault)
        return found

    # Histories

    @property
    def requests_ever(self) -> int:
        return int(struct.unpack_from("<I", self._page, 32)[0])

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return self._page[44]

    @property
    def most(self) -> tuple[int, int]:
        """Most connections ever open at once, most requests ever under way at once."""
        return self._page[45], self._page[47]

    def requests(self, since: int = 0) -> list[Request]:
        """The requests from number ``since`` on; the ring keeps the last 1,024."""
        total = self.requests_ever
        return [self._request(n) for n in range(max(since, total - _LOG_SIZE, 0), total)]

    def _request(self, number: int) -> Request:
        at_us, took_us, overlap, connections, status, fault, n, text = struct.unpack_from(
            "<QIBBHBB46s", self._page, _LOG + number % _LOG_SIZE * 64
        )
        method, _, path = text[:n].decode("utf-8", "replace").partition(" ")
        return Request(
            number,
            at_us / 1e6,
            method,
            path,
            status,
            took_us / 1e6 if status else None,
            overlap,
            connections,
            _FAULT_NAMES.get(fault),
        )

    def forget_requests(self) -> None:
        struct.pack_into("<I", self._page, 32, 0)
        self._page[45] = self._page[44]
        self._page[47] = self._page[46]

    @property
    def changes_ever(self) -> int:
        return int(struct.unpack_from("<I", self._page, 36)[0])

    def changes(self, since: int) -> list[Change]:
        """Level changes from number ``since`` on; the ring keeps the last 256."""
        total = self.changes_ever
        found = []
        for n in range(max(since, total - _HISTORY_SIZE, 0), total):
            at_us, pin, level = struct.unpack_from(
                "<QBB", self._page, _HISTORY + n % _HISTORY_SIZE * 16
            )
            found.append(Change(at_us / 1e6, pin, level))
        return found


def _clamp(value: float, low: int, high: int) -> int:
    return max(low, min(high, round(value)))
