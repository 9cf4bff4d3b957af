"""One board's network on its shared page: what is in the air, and what the board made of it.

Invariants: `espnet.simulator.state` has the map of the page, and here nothing else touches these places of
it; no password leaves it. What a board made of its network ends with its boot; what is in the air
does not.
"""

from __future__ import annotations

import mmap
import struct

#: What the network's servers for names and for time may be told to answer.
DNS = {"none": 0, "good": 1, "garbage": 2, "wrong_id": 3, "no_such_name": 4}
NTP = {
    "none": 0,
    "good": 1,
    "garbage": 2,
    "kiss": 3,
    "wrong_origin": 4,
    "far_future": 5,
    "past": 6,
    "wrong_mode": 7,
    "unsynchronised": 8,
    "short": 9,
}

_NET = 73728


class Network:
    """See the module."""

    def __init__(self, page: mmap.mmap) -> None:
        self._page = page
        page[6] = 1
        self.set_rssi(-57)
        self.set_address(bytes((127, 0, 0, 1)))
        self.set_servers(dns="good", ntp="good")

    def begin_boot(self) -> None:
        """The board is in no network, and has no address and no access point of its own."""
        page = self._page
        page[_NET + 1028] = page[_NET + 1047] = page[_NET + 1116] = 0
        page[_NET + 1080 : _NET + 1090] = _text("mpy-esp32", 9)
        page[_NET + 1113 : _NET + 1116] = _text("XX", 2)

    def set_wifi(self, there: bool | list[tuple[str, str]]) -> None:
        """No network, any network, or these access points: (SSID, password), at most eight."""
        points = there if isinstance(there, list) else []
        packed = [_text(ssid, 32) + _text(key, 64) for ssid, key in points]
        self._page[_NET : _NET + 1024] = b"".join(p.ljust(128, b"\0") for p in packed).ljust(
            1024, b"\0"
        )
        self._page[6] = 2 if isinstance(there, list) else there

    def set_rssi(self, dbm: int) -> None:
        self._page[18] = max(-128, min(-1, dbm)) + 256

    def set_address(self, address: bytes) -> None:
        self._page[_NET + 1024 : _NET + 1028] = address

    def set_servers(self, *, dns: str | None = None, ntp: str | None = None) -> None:
        if dns is not None:
            self._page[_NET + 1158] = DNS[dns]
        if ntp is not None:
            self._page[_NET + 1159] = NTP[ntp]

    def set_beacon_port(self, port: int | None) -> None:
        struct.pack_into("<H", self._page, _NET + 1156, port or 0)

    def describe(self) -> dict[str, object]:
        """The board's part in the network, as a neighbour and a test see it; no password is in it."""
        page = self._page

        def text(at: int) -> str:
            return page[at + 1 : at + 1 + page[at]].decode("utf-8", "replace")

        def address(at: int) -> str:
            return ".".join(map(str, page[at : at + 4]))

        names = ("address", "mask", "gateway", "dns")
        fixed = {name: address(_NET + 1029 + 4 * n) for n, name in enumerate(names)}
        ssid = text(_NET + 1047) or None
        given = address(_NET + 1024)
        dns_asked, ntp_asked = struct.unpack_from("<II", page, _NET + 1160)
        point = {"ssid": text(_NET + 1118), "authmode": page[_NET + 1117]}
        return {
            "ssid": ssid,
            "address": (fixed["address"] if page[_NET + 1028] else given) if ssid else None,
            "static": fixed if page[_NET + 1028] else None,
            "hostname": text(_NET + 1080),
            "country": text(_NET + 1113),
            "ap": point if page[_NET + 1116] else None,
            "dns_asked": dns_asked,
            "ntp_asked": ntp_asked,
        }


def _text(text: str, size: int) -> bytes:
    data = text.encode()
    return bytes((len(data),)) + data.ljust(size, b"\0")
