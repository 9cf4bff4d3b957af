"""Give the board its credential. Loaded when it is asked for, which is seldom, to save memory.

The first HA1 travels as it is. Later ones come sealed under the one before: a listener learns
nothing, and one that is spoilt on the way is refused, because it would lock everybody out.
"""

# ruff: noqa: B904 - MicroPython cannot chain exceptions, and prints that at every attempt

import auth
import flash
from http1 import Refusal


def take(request, body):
    """Make what `body` holds the credential, on flash first; a Refusal leaves the old one."""
    private = body.get("private", auth.private)
    if private not in (True, False, "true", "false"):
        raise Refusal(400, "private must be true or false", "private")
    private = private in (True, "true")
    name = "sealed" if auth.ha1 else "ha1"
    ha1 = body.get(name)
    if not auth.is_hex(ha1, 64):
        error = f"{name} must be 64 hexadecimal digits in lower case"
        raise Refusal(422 if name in body else 400, error, name)
    if auth.ha1:
        known = f"{auth.ha1}:{request.nonce}"
        ha1 = "%064x" % (int(ha1, 16) ^ int(auth.sha256(known + ":rotate"), 16))
        right = auth.sha256(f"{known}:check:{ha1}:{private}".lower())
        if not request.nonce or not auth.same(body.get("check"), right):
            raise Refusal(422, "check does not fit sealed and private", "check")
    try:
        flash.save(auth.FILE, {"ha1": ha1, "private": private})
    except OSError as error:
        raise Refusal(503, f"the credential could not be kept on flash: {error}")
    auth.load()
