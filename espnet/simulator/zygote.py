"""Forks boards. Started as a program of its own: `python -I -S -E zygote.py EXTENSION`.

It loads MicroPython's unix port once and forks a ready process for every board: a millisecond and
a few hundred kilobytes each, from a process with one thread and no event loop. Orders come as JSON
lines on standard input (a socket), reports go back the same way:

    {"start": 7, "state": FILE, "size": N, "console": FILE, "argv": [...]} → {"started": 7, "pid": P}
    {"kill": 7}                                                            → {"ended": 7, "status": S}

``"tty": PATH`` in place of the console: a terminal that is the board's serial line.

Invariants: a board dies with this process (PR_SET_PDEATHSIG), this process ends when its orders end
(the parent died, however it died) or when its parent is another one. A pid is only ever signalled
before it was waited for, so never a stranger's.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.machinery
import importlib.util
import json
import mmap
import os
import resource
import select
import signal
import sys
from types import ModuleType
from typing import Any, NoReturn

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_LIBC = ctypes.CDLL(None)


def _load(path: str) -> ModuleType:
    loader = importlib.machinery.ExtensionFileLoader("micropython_run", path)
    spec = importlib.util.spec_from_loader("micropython_run", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _become_board(micropython: ModuleType, order: dict[str, Any], zygote: int) -> NoReturn:
    """In the child: cut every tie but the shared page, then be a MicroPython process."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != zygote:
        os._exit(1)
    _LIBC.prctl(_PR_SET_NAME, f"board {order['start']}".encode(), 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # How a board resets itself (hardware/_pads.py). The kernel logs an unhandled SIGSEGV, and no abort.
    _LIBC.signal(signal.SIGSEGV, _LIBC.abort)
    if "tty" in order:
        os.setsid()  # the first terminal that is opened now is the one whose Ctrl-C is ours
        files = (os.open(order["tty"], os.O_RDWR),) * 3
    else:
        null = os.open(os.devnull, os.O_RDONLY)
        console = os.open(order["console"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        files = (null, console, console)
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.closerange(3, 64)
    file = os.open(order["state"], os.O_RDWR)
    page = mmap.mmap(file, order["size"])
    os.close(file)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    argv = [str(address) if a == "ADDRESS" else a for a in order["argv"]]
    os._exit(micropython.run_main(argv) & 0xFF)


def main() -> None:
    micropython = _load(sys.argv[1])
    parent = os.getppid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    wake_out, wake_in = os.pipe()
    os.set_blocking(wake_in, False)
    os.set_blocking(wake_out, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)
    number_of: dict[int, int] = {}
    pid_of: dict[int, int] = {}
    rest = b""

    def report(message: dict[str, int]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(0, data) :]

    def reap() -> None:
        while number_of:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            number = number_of.pop(pid)
            del pid_of[number]
            report({"ended": number, "status": os.waitstatus_to_exitcode(status)})

    def obey(order: dict[str, Any]) -> None:
        if "kill" in order:
            if order["kill"] in pid_of:
                os.kill(pid_of[order["kill"]], signal.SIGKILL)
            return
        me = os.getpid()
        pid = os.fork()
        if not pid:
            try:
                _become_board(micropython, order, me)
            finally:
                os._exit(1)  # whatever went wrong in there, this is not a second zygote
        number_of[pid], pid_of[order["start"]] = order["start"], pid
        report({"started": order["start"], "pid": pid})

    # A broken pipe means what the end of orders means: the parent is gone.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while os.getppid() == parent:
            ready, _, _ = select.select([0, wake_out], [], [], 1.0)
            if wake_out in ready:
                os.read(wake_out, 4096)
            reap()
            if 0 not in ready:
                continue
            data = os.read(0, 65536)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                obey(json.loads(line))
    for pid in number_of:
        os.kill(pid, signal.SIGKILL)
    for pid in number_of:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
