"""Every call that the board understands: the route table, and one handler a call.

A handler checks everything before it acts, so a refused request has changed nothing. docs/board.md
is the contract in full; it is compatible with the boards of 2021.
"""

# ruff: noqa: B904 - MicroPython cannot chain exceptions, and prints that at every attempt

import binascii
import os

import auth
import boots
import fields
import flash
import hardware
import rarely
from http1 import Refusal
from leases import LEVELS as SAFE_LEVELS
from micropython import const
from version import VERSION
from web import CONTROL, PUBLIC, READ

_HOST_FILE = "host.json"
_LEASE_MAX_S = const(86400)
_FENCE = ("fence", 1, 10**15)  # name and range of the field
_JSON = ("false", "true")


class Calls:
    """The calls, and the little they share: who the board is, and the host it was told about."""

    def __init__(self, clock, leases, memory):
        self.clock = clock
        self.leases = leases
        self.memory = memory
        self.id = hardware.board_id()
        host = flash.load(_HOST_FILE, {}).get("espnet_host")
        self.host = host if isinstance(host, str) and fields.is_ipv4(host) else ""
        # What stays the same until the next boot, as JSON text made once: GET / is asked for ever.
        self.boot = binascii.hexlify(os.urandom(8)).decode()
        self._constant = (
            f'"boot":"{self.boot}","version":"{VERSION}","build":"{boots.build}","boots":{boots.count},'
            f'"reset_cause":"{hardware.reset_cause()}","sensors":{{}}'
        )
        self.routes = (
            (b"GET", b"/", READ, self.status),
            (b"GET", b"/ui", PUBLIC, self.page),
            (b"GET", b"/details", READ, self.details),
            (b"POST", b"/gpio", CONTROL, self.gpio),
            (b"POST", b"/adc", CONTROL, self.adc),
            (b"POST", b"/dht22", CONTROL, self.dht22),
            (b"POST", b"/set_host", CONTROL, self.set_host),
            (b"POST", b"/claim", CONTROL, self.claim),
            (b"GET", b"/update", READ, self.update_state),
            (b"PUT", b"/update", CONTROL, self.update_file),
            (b"POST", b"/update", CONTROL, self.update),
            (b"POST", b"/restart", CONTROL, self.restart),
            (b"GET", b"/settings", CONTROL, self.settings),
            (b"POST", b"/settings", CONTROL, self.new_settings),
        )

    async def status(self, request):
        """GET /: all that a poll needs, in one piece; a part that fails does not fail it.

        With `?fence=` of the controller in charge it renews all leases, which takes the right to
        control. An outdated fence renews nothing; reading is for everybody.
        """
        if request.query:
            fence = fields.query(request.query, "fence")
            if fence is not None:
                auth.admit(request, CONTROL)
                if self.leases.admit(fields.whole({"fence": fence}, *_FENCE)):
                    self.leases.renew()
        temperature_f = hardware.temperature_f()
        idf_free, idf_largest = hardware.idf_heap()
        return (
            f'{{"id":"{self.id}","f":{_or_null(temperature_f)},'
            f'"gpio":{hardware.levels_json()},"espnet_host":"{self.host}",'
            f'"uptime_s":{self.clock.uptime_s()},"mem_free":{self.memory.free()},'
            f'"idf_free":{_or_null(idf_free)},"idf_largest":{_or_null(idf_largest)},'
            f'"leases":{self.leases.json()},"leases_expired":{self.leases.expired},'
            f'"fence":{self.leases.fence},{auth.json},"trial":{_JSON[boots.trial]},'
            f'"safe_mode":{_JSON[boots.safe]},{self._constant}}}'
        )

    async def page(self, request):
        """GET /ui: the page for people."""
        return rarely.need("page").answer(request)

    async def details(self, request):
        """GET /details: what the page tells people beside the status; no collector asks for it."""
        return rarely.need("details").answer(self.id, self.leases, self.clock.uptime_s())

    async def gpio(self, request):
        """POST /gpio: set pins to 0 or 1, or flip them with 2; an ON may be leased."""
        body = _read(request)
        pins = fields.pins(body, "pin")
        value = fields.whole(body, "value", 0, 2)
        _check_mode()
        for pin in pins:
            check_writable(pin, "pin")
        lease_s = 0
        safe = None
        if "lease_s" in body:
            lease_s = fields.whole(body, "lease_s", 1, _LEASE_MAX_S)
            if "safe" in body:
                safe = fields.word(body, "safe", SAFE_LEVELS, "low")
            if value != 1:
                raise Refusal(422, "lease_s goes with value 1 only", "lease_s")
        elif "safe" in body:
            raise Refusal(422, "safe goes with lease_s only", "safe")
        by = fields.text(body, "by", 40) if "by" in body else ""
        fence = self.check_fence(body)
        by = by or ("a controller" if fence else "somebody")
        by = self.leases.kept(by)
        moment = self.clock.uptime_s() << 1 | bool(fence)
        leases = self.leases.planned(pins, lease_s, safe)
        try:
            levels = hardware.set_pins(pins, value)
        except hardware.HardwareError as error:
            raise Refusal(503, str(error), "pin")
        self.leases.adopt(leases)
        self.leases.note(pins, by, moment)
        gpio = {str(pin): levels[pin] for pin in levels}
        return {"id": self.id, "status": "OK", "gpio": gpio}

    async def adc(self, request):
        """POST /adc: sample an analogue pin, while another pin powers what is measured."""
        _check_mode()
        body = _read(request)
        return await rarely.need("measure").adc(self, request, body)

    async def dht22(self, request):
        """POST /dht22: one fresh measurement; nothing is remembered."""
        _check_mode()
        body = _read(request)
        return rarely.need("measure").dht22(self, body)

    async def set_host(self, request):
        """POST /set_host: remember, across resets, where EspNet is."""
        body = _read(request)
        host = fields.ipv4(body, "ip")
        self.check_fence(body)
        if host != self.host:  # flash wears out
            try:
                flash.save(_HOST_FILE, {"espnet_host": host})
            except OSError as error:
                raise Refusal(503, f"the address could not be kept on flash: {error}")
            self.host = host
        return {"id": self.id, "status": "OK", "espnet_host": host}

    async def claim(self, request):
        """POST /claim: give an open board its credential, or a claimed one another (sealed)."""
        body = _read(request)
        self.check_fence(body)
        rarely.need("claim").take(request, body)
        return {"id": self.id, "status": "OK"}

    async def update_state(self, request):
        """GET /update: which release runs, what became of the last one, and how much room there is."""
        return rarely.need("update").state(self.id, self.clock.uptime_s())

    async def update_file(self, request):
        """PUT /update: the manifest of another release, or a piece of one of its files."""
        fence = fields.query(request.query, "fence")
        self.check_fence({} if fence is None else {"fence": fence})
        return await rarely.need("update").put(self.id, request)

    async def update(self, request):
        """POST /update: switch to what was put, confirm what runs on trial, or undo either."""
        body = _read(request)
        self.check_fence(body)
        return await rarely.need("update").act(self.id, body)

    async def restart(self, request):
        """POST /restart: answer, then restart the chip."""
        self.check_fence(_read(request))
        if not boots.restarting:
            boots.forgive()
        boots.restart()
        return {"id": self.id, "status": "OK"}

    async def settings(self, request):
        """GET /settings: those in use; of passwords only whether there is one."""
        return rarely.once("settings_calls").shown()

    async def new_settings(self, request):
        """POST /settings: those from the next restart on."""
        rarely.once("settings_calls").take(request)
        return {"id": self.id, "status": "OK"}

    def check_fence(self, body, pin=None):
        """The fence of a call, 0: none; an outdated one is refused. The last check before acting.

        `pin` is measured with: it is then where that leaves it, whoever set it before.
        """
        fence = fields.whole(body, *_FENCE) if "fence" in body else 0
        if not self.leases.admit(fence):
            newest = self.leases.fence
            error = f"fence {fence} is outdated, {newest} was here: another controller took over"
            raise Refusal(409, error, "fence", "", {"fence": newest})
        if pin is not None:
            self.leases.note((pin,), "a measurement", self.clock.uptime_s() << 1)
        return fence

    def check_unleased(self, pin, name):
        """Refuse to measure with a pin that a lease holds: it would be switched on the way."""
        if pin in self.leases:
            raise Refusal(403, f"pin {pin} is leased; end its lease by a write first", name)


def _or_null(value):
    """As JSON has it."""
    return "null" if value is None else value


def _read(request):
    """{name: value} of a request's body."""
    return rarely.need("bodies").read(request)


def _check_mode():
    """Refuse what moves pins while the board is in safe mode."""
    if boots.safe:
        raise Refusal(503, "safe mode: the board died too often; this ends after a good minute")


def check_writable(pin, name):
    """Refuse a pin that does not exist (422) or must not be driven (403)."""
    if not hardware.exists(pin):
        raise Refusal(422, f"an ESP32 has no pin {pin}", name)
    why = hardware.why_not_writable(pin)
    if why:
        allowed = "writable are 0, 2, 4, 5, 12-19, 21-23, 25-27, 32, 33"
        raise Refusal(403, f"pin {pin} {why}; {allowed}", name)
