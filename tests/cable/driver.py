"""Puts a release, and dies by SIGKILL in the middle of the Nth write to the port: the cable is pulled.

    python driver.py PORT FOLDER N        N = 0: does not die, and prints how many writes there were

Not a test: the tests start it as a program of its own.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from espnet import firmware
from espnet.cable import prompt, putting


def main() -> None:
    port, folder, last = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    release = firmware.build(folder)
    writes = 0
    with prompt.opened(port) as board:
        line = board._transport.serial
        send = line.write

        def counted(data: bytes) -> Any:
            nonlocal writes
            writes += 1
            if writes == last:
                send(data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return send(data)

        line.write = counted
        putting.put(board, release, lambda what, done, total: None)
    print(writes)


if __name__ == "__main__":
    main()
