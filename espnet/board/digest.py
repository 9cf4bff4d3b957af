"""HTTP Digest (RFC 7616, SHA-256) as a client of boards speaks it.

Invariants: no signature is made twice with one count. A board is challenged from once: afterwards its
nonce is used with growing counts, and what it offers next is followed, so that in the steady state no
request is sent twice. Only ``auth-int`` is spoken, where the signature covers the body, and the board's
proof its answer: who is on the way could rewrite an offer of less. The password never leaves here, and
what a board says gets into a header only where it is harmless.
"""

import re
import secrets
from binascii import hexlify
from collections.abc import Callable, Sequence
from hashlib import sha256
from urllib.request import parse_http_list, parse_keqv_list

from espnet.credential import USER, Password, board_of, realm

#: Most requests for one exchange: a challenge, a nonce that became stale, and each password once.
MAX_ASKED = 10

#: Those of the firmware. Nothing else is put into a header, or between the parts of what is hashed.
_NONCE = re.compile(r"[0-9a-f]{44}")
#: A board's id that may be put into a header: it comes from the network where nobody expected one.
_ID = re.compile(r"[0-9A-Za-z._-]{1,64}")
#: How long an ``Authentication-Info`` is that holds the proof alone.
_PROOF = len('rspauth=""') + 64
_NEXT = re.compile(rb'nextnonce="([0-9a-f]{44})"')
#: Most bytes of a challenge that are looked at.
_MAX_CHALLENGE = 1024


def _hash(text: bytes) -> bytes:
    return hexlify(sha256(text).digest())


_NO_BODY = _hash(b"")
#: Who knows a board's passwords, by its id.
Find = Callable[[str], Sequence[Password]]


class OddChallenge(Exception):
    """A 401 that is not one of this board's; the message is the end of a sentence."""


class Login:
    """One board's password, as one client uses it on one board: never for two requests at once.

    ``board_id`` None: whoever answers says which board it is, and ``find`` is asked for that one. Passwords
    are tried in their order; the one that the board takes is kept.
    """

    def __init__(self, board_id: str | None, find: Find) -> None:
        self.board_id = board_id
        #: Whether the latest answer proves that the board knows the password.
        self.is_proved = False
        self._find = find
        self._passwords: Sequence[Password] = ()
        self._ha1s: list[str] = []
        self._index = 0
        #: How many passwords were refused since one was taken.
        self._refused = 0
        self._nonce = ""
        self._count = 0
        #: The target of the latest request, if it was signed.
        self._signed = b""
        self._before = self._between = self._head = self._known = b""

    def __repr__(self) -> str:
        return f"Login({self.board_id!r})"

    @property
    def password(self) -> Password | None:
        """The one that requests are signed with; None before a challenge."""
        return self._passwords[self._index] if self._nonce else None

    @property
    def is_another(self) -> bool:
        """Whether the board refused the first password, and proved that it has the present one."""
        return self._index != 0 and self.is_proved

    def sign(self, method: bytes, target: bytes, body: bytes = b"") -> bytes:
        """The value of an ``Authorization`` header for this one request; empty before a challenge."""
        if not self._nonce:
            self._signed = b""
            return b""
        self._count += 1
        count = b"%08x" % self._count
        asked = b"%b:%b:%b" % (method, target, _hash(body) if body else _NO_BODY)
        self._signed, self._known = target, self._before + count + self._between
        response = _hash(self._known + _hash(asked))
        return b'%buri="%b", nc=%b, response="%b"' % (self._head, target, count, response)

    def signed(self, request: bytes) -> bytes:
        """A whole request, head and body, with its ``Authorization``; as it was before a challenge."""
        line, end, rest = request.partition(b" HTTP/1.1\r\n")
        method, _, target = line.partition(b" ")
        body = b"" if method == b"GET" else rest.partition(b"\r\n\r\n")[2]
        signature = self.sign(method, target, body)
        if not signature:
            return request
        return b"%b%bAuthorization: %b\r\n%b" % (line, end, signature, rest)

    def coming(self) -> str:
        """``HA1:nonce:count`` of the next signature, which a new password is sealed under."""
        return f"{self._ha1s[self._index]}:{self._nonce}:{self._count + 1:08x}"

    def answered(self, status: int, challenge: bytes, info: bytes, body: bytes) -> bool:
        """Takes an answer: its ``WWW-Authenticate`` and ``Authentication-Info`` (empty where absent).

        Returns whether to ask again, signed anew. Otherwise ``status`` is the answer: after a 401 or 429
        every password was refused, or there is none. Raises `OddChallenge`.
        """
        self.is_proved = False
        if status == 401:
            return bool(challenge or self._signed) and self._challenged(_parameters(challenge))
        if not self._signed:
            return False
        if status == 429:  # too many wrong ones: ours was one of them
            return self._try_next()
        self._refused = 0
        answered = _hash(b":%b:%b" % (self._signed, _hash(body)))
        # The time that this takes tells an impostor nothing: a count is never used again.
        if info[:73] == b'rspauth="' + _hash(self._known + answered):
            self.is_proved = True
            if len(info) > _PROOF and (offer := _NEXT.search(info, 73)):
                self._use(offer[1].decode())
        return False

    def _try_next(self) -> bool:
        """Goes on to the next password; whether there is one that was not refused."""
        self._refused += 1
        self._index = (self._index + 1) % len(self._ha1s)
        if self._refused >= len(self._ha1s):
            self._refused, self._nonce = 0, ""
            return False
        self._use(self._nonce)
        return True

    def _challenged(self, fields: dict[str, str]) -> bool:
        """Whether there is a password to answer this challenge with; raises `OddChallenge` unless it is one
        of this board's, before that costs a password its turn."""
        nonce, offered = fields.get("nonce", ""), fields.get("qop", "").replace(" ", "").split(",")
        if (
            fields.get("algorithm", "").upper() != "SHA-256"
            or "auth-int" not in offered
            or not _NONCE.fullmatch(nonce)
        ):
            raise OddChallenge("asks for a password in a way that boards do not")
        board_id = board_of(fields.get("realm", ""))
        if board_id is None or not _ID.fullmatch(board_id):
            raise OddChallenge("asks for the password of something that is no board")
        if self.board_id not in (None, board_id):
            raise OddChallenge(f"asks for the password of another board, {board_id}")
        if not self._ha1s:
            self.board_id = board_id
            self._passwords = self._find(board_id)
            self._ha1s = [password.ha1(board_id) for password in self._passwords]
        if not self._ha1s:
            return False
        is_stale = fields.get("stale", "").lower() == "true"
        if self._signed and not is_stale and not self._try_next():
            return False
        self._use(nonce)
        return True

    def _use(self, nonce: str) -> None:
        """Signs with this nonce from now on. Where it is the one in use, counts go on growing: one that was
        used must not come again under another password."""
        assert self.board_id is not None
        if nonce != self._nonce:
            self._nonce, self._count = nonce, 0
        cnonce = secrets.token_hex(8)
        self._before = f"{self._ha1s[self._index]}:{nonce}:".encode()
        self._between = f":{cnonce}:auth-int:".encode()
        self._head = (
            f'Digest username="{USER}", realm="{realm(self.board_id)}", nonce="{nonce}", '
            f'algorithm=SHA-256, qop=auth-int, cnonce="{cnonce}", '
        ).encode()


def _parameters(challenge: bytes) -> dict[str, str]:
    """The parameters of a Digest challenge, by name; {} where it is none."""
    scheme, _, text = challenge[:_MAX_CHALLENGE].decode("latin-1").partition(" ")
    if scheme.lower() != "digest":
        return {}
    try:
        fields = parse_keqv_list(parse_http_list(text))
    except (ValueError, IndexError):
        return {}
    return {name.lower(): value for name, value in fields.items()}
