"""The network that boards speak into, as far as this machine's loopback reaches."""

import json
import socket
import threading
from typing import Any, Self

#: Where broadcasts on loopback go; nothing else reaches who listens here.
LOOPBACK = "127.255.255.255"


def beacon(board_id: str, address: str, name: str = "porch", **more: Any) -> bytes:
    ip, _, port = address.partition(":")
    said = {"espnet": 1, "id": board_id, "name": name, "address": ip, "port": int(port or 80)}
    return json.dumps(said | {"version": "0.2.0", "boot": "0" * 16} | more).encode()


class Air:
    """The network that boards speak into: says again and again what it was told to say."""

    def __init__(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind((LOOPBACK, 0))
            self.port: int = free.getsockname()[1]
        self.address = f"{LOOPBACK}:{self.port}"
        self.said: list[bytes] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._speak)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _speak(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
            mouth.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            while not self._stop.wait(0.05):
                for datagram in tuple(self.said):
                    mouth.sendto(datagram, (LOOPBACK, self.port))
