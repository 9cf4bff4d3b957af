"""Who may do what: HTTP Digest (RFC 7616, SHA-256), and whose pages may call.

An open board lets everybody do everything. A claimed one keeps HA1 = SHA256("espnet:realm:password")
on flash; what changes something must then prove to know it. Invariants:

- A damaged credential closes the board; only a missing one leaves it open.
- An accepted request is never accepted again. A nonce is its time of issue and a code over it, so
  handing one out costs no memory. Of the last _USED_MAX that came with the right digest the board
  knows the highest count; what it forgets, and all that is older, it refuses (`_floor`).
- The digest is looked at first, so wrong ones, however many, never keep out right ones.
- The answer to an accepted request proves that its sender knows HA1 as well. With `auth-int` the
  bodies of both are part of what is proven, so nobody on the way can exchange one.
- A browser sends what any page asks for, with the password that its user gave to the board. So the
  board answers only to names that nobody else can own (or DNS would be made to point a foreign name
  at it), and takes no change from another page's script, form or <img>.

One board has one of all this, so it lies in the module: to hold it in an object costs 1 KB.
"""

import binascii
import hashlib
import os

import flash
import hardware
import settings
from http1 import Refusal
from micropython import const
from web import CONTROL, PUBLIC, READ

FILE = "claim.json"

_LIFE_MS = const(600000)  # of a nonce
_USED_MAX = const(16)
_WRONG_MS = const(10000)  # so long a wrong digest counts against the next ones
_WRONG_MAX_MS = const(50000)  # at most: five at once, then one every ten seconds

clock = None  # main.py hands it in

ha1 = False  # of the credential; False: the board is open, True: damaged, so closed to all
private = False  # whether reading takes the password too
json = ""  # what the status says about both

_realm = f"EspNet {hardware.board_id()}"
_names = settings.get("names", ())
_key = binascii.hexlify(os.urandom(16)).decode()  # another one at every boot
_issued = 0  # the newest nonce: 1/16 ms since boot, each one once
_floor = 0
_used = {}  # {a nonce's time of issue: its highest count}
_wrong_ms = 0


def sha256(text, more=()):
    """The SHA-256, as text, of a text and the pieces after it."""
    digest = hashlib.sha256(text)
    for piece in more:
        digest.update(piece)
    return binascii.hexlify(digest.digest()).decode()


def same(one, other):
    """Whether two texts are equal; the time it takes tells of hashes under a secret key only."""
    return sha256(f"{_key}{one}") == sha256(f"{_key}{other}")


def is_hex(text, length):
    """Whether `text` is so many hexadecimal digits in lower case."""
    return isinstance(text, str) and len(text) == length and not text.strip("0123456789abcdef")


def load():
    """Put the credential that is on flash in force."""
    global ha1, private, json
    record = flash.load(FILE, {})
    ha1 = record.get("ha1")
    if not is_hex(ha1, 64):
        ha1 = FILE in os.listdir()
    private = bool(ha1) and record.get("private") is not False
    json = f'"claimed":{bool(ha1)},"private":{private}'.lower()


def admit(request, access):
    """Return when `request` may have what needs `access`; raise a Refusal when not."""
    host, origin, site, agent, header, _ = request.headers
    host = host.lower()
    if host[-3:] == ":80":
        host = host[:-3]
    name, _, port = host.rpartition(":")
    if not port.isdigit():
        name = host
    last = name.rpartition(".")[2]
    if not (
        last == name  # it has no dot
        or last.isdigit()
        or last in ("local", "lan", "home", "internal", "localdomain")
        or name in _names
    ):
        raise Refusal(403, "unknown name; see settings.json")
    if access != READ:
        if access == PUBLIC:
            return
        if (
            access != CONTROL
            or (
                origin
                and (not host or origin.lower().partition("://")[2] not in (host, host + ":80"))
            )
            or site in ("cross-site", "same-site")
            # The one GET of the page that takes control changes nothing, and no other page can read it.
            or (
                agent[:7] == "Mozilla"
                and request.method == b"GET"
                and request.target != b"/settings"
            )
        ):
            raise Refusal(403, "for the board's own page only")
    if ha1 and (access == CONTROL or private) and not request.nonce:
        _authenticate(request, header)


def _authenticate(request, header):
    """Return when the request's digest is right and new; sets its `nonce` and `sign`."""
    global _wrong_ms
    if not header:
        status = 409 if request.path == b"/claim" else 401
        raise _challenge("this board is claimed: log in", status)
    fields = _parse(header)
    get = fields.get
    nonce = get("nonce")
    count = get("nc")
    uri = get("uri", "")
    qop = get("qop")
    cnonce = get("cnonce")
    if not (
        get("username") == "espnet"
        and get("realm") == _realm
        and uri.encode() == request.target
        and get("algorithm") == "SHA-256"
        and qop in ("auth", "auth-int")
        and is_hex(count, 8)
        and nonce
        and cnonce
    ):
        raise _challenge("not the digest asked for")
    known = f"{ha1}:{nonce}:{count}:{cnonce}:{qop}:"

    def proof(method, body):
        """That one knows HA1: of a request or, where there is no method, of its answer."""
        covered = f"{method}:{uri}"
        if qop == "auth-int":
            covered += ":" + sha256("", body)
        return sha256(known + sha256(covered))

    if not same(get("response"), proof(request.method.decode(), request.body)) or ha1 is True:
        now_ms = clock.now_ms()
        wrong_ms = max(_wrong_ms - now_ms, 0)
        if wrong_ms >= _WRONG_MAX_MS:
            raise Refusal(429, "too many wrong passwords", None, "Retry-After: 10\r\n")
        _wrong_ms = now_ms + wrong_ms + _WRONG_MS
        raise _challenge("the password is wrong")
    issued = int(nonce[:12], 16) if is_hex(nonce, 44) else 1
    age_ms = clock.now_ms() - (issued >> 4)
    if not (same(nonce, _nonce(issued)) and age_ms <= _LIFE_MS and _count(issued, int(count, 16))):
        raise _challenge("the nonce is used up", 401, ", stale=true")

    def sign(body):
        following = f', nextnonce="{_nonce(0)}"' if age_ms > _LIFE_MS // 2 else ""
        return (
            f'Authentication-Info: rspauth="{proof("", body)}", qop={qop}, nc={count}, '
            f'cnonce="{cnonce}"{following}\r\n'
        )

    request.nonce = f"{nonce}:{count}"
    request.sign = sign


def _parse(header):
    """{name: value} of an Authorization header: each parameter once, and with a value. Else {}.

    No value that a client rightly sends holds a quote.
    """
    fields = {}
    begun = ""  # a value in quotes may hold commas
    if header[:7].lower() == "digest ":
        for part in header[7:].split(","):
            part = begun + part
            begun = part + "," if part.count('"') == 1 else ""
            if begun:
                continue
            name, _, value = part.partition("=")
            name = name.strip().lower()
            value = value.strip()
            if value[:1] == '"' == value[-1:]:
                value = value[1:-1]
            if not value or '"' in value or name in fields:
                return {}
            fields[name] = value
    return {} if begun else fields


def _nonce(issued):
    """The nonce of a time of issue; 0: a new one."""
    global _issued
    if not issued:
        issued = _issued = max(_issued + 1, clock.now_ms() << 4)
    issued = "%012x" % issued
    # Half a hash of a key and a text of fixed length: nothing can be appended to it.
    return issued + sha256(_key + issued)[:32]


def _count(issued, count):
    """Whether this nonce may be used with this count; from then on only with higher ones."""
    global _floor
    if count <= _used.get(issued, 0 if issued > _floor else count):
        return False
    if issued not in _used and len(_used) == _USED_MAX:
        oldest = min(_used)
        _floor = max(_floor, oldest)
        del _used[oldest]
    _used[issued] = count
    return True


def _challenge(error, status=401, stale=""):
    header = (
        f'WWW-Authenticate: Digest realm="{_realm}", nonce="{_nonce(0)}", '
        f'algorithm=SHA-256, qop="auth,auth-int"{stale}\r\n'
    )
    return Refusal(status, error, None, header)


load()
