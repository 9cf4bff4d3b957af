"""Secrets at rest: sealed under ESPNET_SECRET_KEY, or plain where there is none.

Fernet (AES-128-CBC with HMAC-SHA256) of the *cryptography* library. Whose secret it is stands inside the
seal, so that one device's cannot be put in another one's place. The library is loaded when a key is used.
"""

import functools
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

_SEALED = b"fernet:"


class Secrets(msgspec.Struct, frozen=True):
    """What is inside: a board's passwords, and whether it has proved once that it knows one of them."""

    id: str
    passwords: list[str]
    is_proved: bool = False

    def __repr__(self) -> str:
        return "Secrets(…)"


class CannotOpen(Exception):
    """A seal that none of the keys opens; the message is the end of a sentence."""


def is_sealed(raw: bytes | None) -> bool:
    """Whether a stored secret is sealed, under whatever key."""
    return raw is not None and raw.startswith(_SEALED)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Secrets)


class Seals:
    """Seals with the first of ``keys`` (32 bytes each, URL-safe base64), opens with any of them."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = keys

    @property
    def has_key(self) -> bool:
        """Whether anything is sealed from now on."""
        return bool(self._keys)

    def __repr__(self) -> str:
        return "Seals(…)"

    def seal(self, secrets: Secrets) -> bytes:
        """The bytes to be stored."""
        plain = _encoder.encode(secrets)
        return _SEALED + self._fernet.encrypt(plain) if self._keys else plain

    def open(self, device_id: str, raw: bytes) -> Secrets:
        """What was sealed for this board; raises `CannotOpen`."""
        if is_sealed(raw):
            if not self._keys:
                raise CannotOpen("is sealed, and ESPNET_SECRET_KEY is not set here")
            from cryptography.fernet import InvalidToken

            try:
                raw = self._fernet.decrypt(raw[len(_SEALED) :])
            except InvalidToken:
                raise CannotOpen(
                    "was sealed under another ESPNET_SECRET_KEY than the one that is set here"
                ) from None
        try:
            secrets = _decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise CannotOpen("is damaged") from None  # what is in it is not for tracebacks
        if secrets.id != device_id:
            raise CannotOpen("is that of another board")
        return secrets

    def is_current(self, raw: bytes) -> bool:
        """Whether a secret lies as it would if it were sealed now."""
        if not self._keys or not is_sealed(raw):
            return not self._keys and not is_sealed(raw)
        from cryptography.fernet import Fernet, InvalidToken

        try:
            Fernet(self._keys[0]).decrypt(raw[len(_SEALED) :])
        except InvalidToken:
            return False
        return True

    @functools.cached_property
    def _fernet(self) -> "MultiFernet":
        from cryptography.fernet import Fernet, MultiFernet

        return MultiFernet([Fernet(key) for key in self._keys])
