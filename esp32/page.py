"""The page for people: compressed, as `put` brings it, or as somebody put it by hand. Loaded when asked for.

Which headers go with the compressed one stands in its own head, as gzip's comment.
"""

import os

import boots
from http1 import Stream
from micropython import const

_PIECE = const(512)


def answer(request):
    """The Stream of the page; without a body for a browser that has it already."""
    name = f"{boots.slot}/ui.html.gz"
    pieces = _pieces(name)
    try:
        request.header = next(pieces)[10:].partition(b"\0")[0].decode()
        pieces.close()
    except OSError:
        name = f"{boots.slot}/ui.html"
    known = request.headers[5]  # the ETag, in quotes, of the page that the browser has
    status = 304 if known[:1] == '"' and known in request.header else 200
    pieces = _pieces("" if status == 304 else name)
    return Stream("text/html; charset=utf-8", os.stat(name)[6], pieces, status)


def _pieces(name):
    """The bytes of a file; no name: none."""
    if not name:
        yield b""
        return
    with open(name, "rb") as file:
        while True:
            piece = file.read(_PIECE)
            if not piece:
                return
            yield piece
