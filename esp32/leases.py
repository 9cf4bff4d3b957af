"""Leases: what the board does by itself when its controller is gone. And fences: who may control it.

A lease holds a pin on for so many seconds, unless it is renewed. When it runs out, the pin goes to
its safe level, whatever has become of the controller, the network or Redis. The last write decides:
one with a lease replaces the pin's lease, one without ends it. A reset ends all leases.

A fence is the number that came with the grant of a controller's lock. The highest one seen since
boot is remembered; who comes with a lower one lost its lock in the meantime and is too late.

A note says who set a pin last, and whether with a fence: for people to read, it decides nothing.

Nothing here touches hardware: `drive(pin, level)` is handed in, and so is the clock.
"""

import gc
from array import array

LEVELS = {"low": 0, "high": 1, "hold": None}


class Leases:
    def __init__(self, clock, drive):
        self.expired = 0  # leases that ran out since boot
        self.fence = 0  # the highest seen since boot
        self._clock = clock
        self._drive = drive
        self.setters = [None] * 40  # by pin, of those set since boot: who set it last
        self.moments = array("I", bytes(160))  # and when: twice the uptime in s; odd: with a fence
        self.safe = {}  # {pin: its safe level's name}, where a call names none and it is not "low"
        self._leases = {}  # {pin: (ends at, in ms of the clock; length in ms; safe level's name)}

    def admit(self, fence):
        """Whether a caller with this fence (0: none) may act; remembers the highest one."""
        if not fence:
            return True
        if fence < self.fence:
            return False
        self.fence = fence
        return True

    def __contains__(self, pin):
        return pin in self._leases

    def kept(self, by):
        """`by` as notes keep it: one text a name, made after a collection.

        So it lies at the start of the heap. Anywhere else it would cut the free rest in two.
        """
        for setter in self.setters:
            if setter == by:
                return setter
        gc.collect()
        return by.encode().decode()

    def note(self, pins, by, moment):
        """Note that `by` (as `kept`) has set `pins` at a `moment`; needs no memory."""
        for pin in pins:
            self.setters[pin] = by
            self.moments[pin] = moment

    def planned(self, pins, lease_s, safe):
        """What the leases will be after `pins` were written with `lease_s` (0: without a lease).

        `safe` None: each pin's own safe level.

        Made before the pins are driven and put in force by `adopt` after it: adopting needs no
        memory, so no pin is ever on without the lease that it was to have.
        """
        leases = self._leases.copy()
        for pin in pins:
            if lease_s:
                length_ms = lease_s * 1000
                leases[pin] = (
                    self._clock.now_ms() + length_ms,
                    length_ms,
                    safe or self.safe.get(pin, "low"),
                )
            else:
                leases.pop(pin, None)
        return leases

    def adopt(self, planned):
        """Put planned leases in force."""
        self._leases = planned

    def renew(self):
        """Begin every lease anew, at its full length."""
        now_ms = self._clock.now_ms()
        for pin, (_, length_ms, safe) in self._leases.items():
            self._leases[pin] = (now_ms + length_ms, length_ms, safe)

    def expire(self):
        """Set pins whose lease has run out to their safe level. One that fails is tried again."""
        now_ms = self._clock.now_ms()
        for pin in list(self._leases) if self._leases else ():
            ends_ms, _, safe = self._leases[pin]
            if ends_ms <= now_ms and self._let_go(pin, safe):
                self.expired += 1
                if safe != "hold":
                    moment = self._clock.uptime_s() << 1 | self.moments[pin] & 1
                    self.note((pin,), "end of lease", moment)

    def let_go(self):
        """Set every leased pin to its safe level: the program ends and can renew nothing."""
        for pin, (_, _, safe) in list(self._leases.items()):
            self._let_go(pin, safe)

    def _let_go(self, pin, safe):
        level = LEVELS[safe]
        try:
            if level is not None:
                self._drive(pin, level)
        except (OSError, ValueError) as error:
            print("lease: pin", pin, "did not go", safe, ":", error)
            return False
        del self._leases[pin]
        return True

    def json(self):
        """`{"4":{"left_s":30,"safe":"low"},…}`; what is left is rounded up."""
        if not self._leases:
            return "{}"
        now_ms = self._clock.now_ms()
        leases = []
        for pin, (ends_ms, _, safe) in self._leases.items():
            left_s = max(0, (ends_ms - now_ms + 999) // 1000)
            leases.append(f'"{pin}":{{"left_s":{left_s},"safe":"{safe}"}}')
        return "{" + ",".join(leases) + "}"
