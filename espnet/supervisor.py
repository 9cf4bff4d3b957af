"""What a service manager is told: that the service is ready, that it lives, that it stops.

The protocol is that of systemd's `sd_notify(3)`: words in a datagram to a socket whose address it gave. That
nobody listens any more is not the service's trouble, so nothing in here raises.
"""

import contextlib
import socket


class Supervisor:
    """Speaks to ``address`` ("" for nobody: then nothing happens)."""

    def __init__(self, address: str) -> None:
        # An abstract address is written with an @ in place of its zero.
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def ready(self) -> None:
        """It does its work now: whoever waited for that goes on."""
        self._say("READY=1")

    def alive(self) -> None:
        """It has not hung."""
        self._say("WATCHDOG=1")

    def stopping(self) -> None:
        """It was told to stop, and does."""
        self._say("STOPPING=1")

    def _say(self, words: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError, ValueError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link,
        ):
            link.setblocking(False)
            link.sendto(words.encode(), self._address)
