"""MicroPython. A firmware for testing the simulator: a small keep-alive server that can `exec`.

`GET /` answers like a board. `POST /exec` runs its body and answers {"r": the name `r`} or
{"error": …}. `POST /slowly?MS` answers late, without blocking.
"""

import asyncio
import binascii
import gc
import json
import os
import socket
from asyncio import core

import machine

ID = binascii.hexlify(machine.unique_id()).decode()
BOOT = binascii.hexlify(os.urandom(4)).decode()
world = {"machine": machine}


async def answer(path, body):
    path, _, query = path.partition("?")
    if path == "/":
        return 200, {"id": ID, "boot": BOOT, "f": 100, "gpio": {"2": machine.Pin(2).value()}}
    if path == "/exec":
        world["r"] = None
        try:
            exec(body, world)
        except Exception as e:  # noqa: BLE001 - whatever the program raises is the answer
            return 200, {"error": f"{type(e).__name__}: {e}"}
        return 200, {"r": world["r"]}
    if path == "/slowly":
        await asyncio.sleep_ms(int(query))
        return 200, {}
    if path == "/raise":
        core.run_until_complete = None
        main_task.cancel()
    return 404, {"error": path}


async def converse(client):
    stream = asyncio.StreamReader(client)
    try:
        while True:
            line = await stream.readline()
            if not line:
                break
            length, close, path = 0, False, line.split(b" ")[1].decode()
            while True:
                header = (await stream.readline()).lower()
                if header in (b"\r\n", b""):
                    break
                if header.startswith(b"content-length:"):
                    length = int(header[15:])
                close = close or header.startswith(b"connection: close")
            body = await stream.readexactly(length) if length else b""
            status, reply = await answer(path, body)
            reply = json.dumps(reply).encode()
            head = "HTTP/1.1 %d Probe\r\nContent-Length: %d\r\n%s\r\n"
            head = head % (status, len(reply), "Connection: close\r\n" if close else "")
            stream.write(head.encode() + reply)
            await stream.drain()
            if close:
                break
    except (OSError, EOFError):
        pass
    finally:
        client.close()
        gc.collect()


def readable(listener):
    yield core._io_queue.queue_read(listener)


async def serve():
    listener = socket.socket()
    listener.bind(socket.getaddrinfo("0.0.0.0", 80)[0][-1])
    listener.listen(8)
    listener.setblocking(False)
    while True:
        await readable(listener)
        try:
            client = listener.accept()[0]
        except OSError:
            continue
        client.setblocking(False)
        asyncio.create_task(converse(client))  # noqa: RUF006 - the loop holds it


main_task = core.create_task(serve())
core.run_until_complete(main_task)
