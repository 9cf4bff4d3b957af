"""Bodies: JSON objects and forms, read into {name: value}.

MicroPython's own `json` reads `{"pin" 4,,}` without complaint. Here a body is exactly right or it is
refused, because what it says moves pins. It is read byte by byte, so that even one of 8 KB needs no
large allocation.
"""

# ruff: noqa: B904 - MicroPython cannot chain exceptions, and prints that at every attempt

from http1 import Refusal
from micropython import const

_NAME_MAX = const(32)
_TEXT_MAX = const(256)  # bytes of one value
_FIELDS_MAX = const(16)
_LIST_MAX = const(40)

_END = const(-1)
_OPEN_OBJECT = const(0x7B)
_CLOSE_OBJECT = const(0x7D)
_OPEN_LIST = const(0x5B)
_CLOSE_LIST = const(0x5D)
_QUOTE = const(0x22)
_BACKSLASH = const(0x5C)
_EQUALS = const(0x3D)
_PLUS = const(0x2B)
_PERCENT = const(0x25)
_BLANKS = b" \t\r\n"
_HEX = b"0123456789abcdef"
_WORDS = {"true": True, "false": False, "null": None}
_WORD_BYTES = b"+-.0123456789Eabcdefghijklmnopqrstuvwxyz"  # of numbers, true, false and null
_ESCAPES = b'"\\/bfnrt'  # what may follow a backslash in JSON, beside u
_ESCAPED = b'"\\/\b\f\n\r\t'


def read(request):
    """{name: value} of a request's body: text from a form, any JSON type but an object from JSON.

    Fields that no call knows are tolerated, as they were in 2021. A missing Content-Type is
    guessed, and what begins with a brace is JSON, even when `curl -d` calls it a form.
    """
    source = _Source(request.body)
    if request.kind == b"application/json":
        return _read_json(source)
    if request.kind not in (b"", b"application/x-www-form-urlencoded"):
        raise Refusal(400, "the body must be application/json or application/x-www-form-urlencoded")
    return _read_json(source) if source.skip_blanks() == _OPEN_OBJECT else _read_form(source)


class _Source:
    """The bytes of a list of pieces, one at a time; `next` is the one that comes, or _END.

    The list is used up.
    """

    def __init__(self, pieces):
        self._bytes = self._each(pieces)
        self.next = next(self._bytes, _END)

    def _each(self, pieces):
        while pieces:
            yield from pieces.pop(0)  # its memory is free then

    def take(self):
        """Pass over the next byte and return it."""
        byte = self.next
        self.next = next(self._bytes, _END)
        return byte

    def comes(self, allowed):
        """Whether the next byte is one of `allowed`."""
        return self.next != _END and self.next in allowed

    def skip_blanks(self):
        """Pass over white space; returns what comes then."""
        while self.comes(_BLANKS):
            self.take()
        return self.next

    def take_hex(self, digits):
        """Pass over so many hexadecimal digits; returns their value."""
        value = 0
        for _ in range(digits):
            byte = self.take()
            digit = -1 if byte == _END else _HEX.find(bytes((byte,)).lower())
            if digit < 0:
                raise Refusal(400, "an escape in the body is not hexadecimal")
            value = value << 4 | digit
        return value


def _add(fields, name, value):
    """Put one more field into `fields`. Given twice, one of the two would be misread: refused."""
    if name in fields:
        raise Refusal(400, f"{name} is given twice", name)
    if len(fields) >= _FIELDS_MAX:
        raise Refusal(400, f"a body may have {_FIELDS_MAX} fields at most")
    fields[name] = value


def _decode(data, most):
    """`data` as text, when it is UTF-8 and not longer than `most` bytes."""
    if len(data) > most:
        raise Refusal(400, f"names may have {_NAME_MAX} bytes, values {_TEXT_MAX}")
    try:
        return str(data, "utf-8")
    except UnicodeError:
        raise Refusal(400, "the body is not UTF-8")


# Forms: name=value&name=value, with + for a space and % escapes


def _read_form(source):
    fields = {}
    while source.next != _END:
        name = _form_text(source, b"=&", _NAME_MAX)
        value = ""
        if source.next == _EQUALS:
            source.take()
            value = _form_text(source, b"&", _TEXT_MAX)
        source.take()
        if name or value:
            _add(fields, name, value)
    return fields


def _form_text(source, ends, most):
    """The decoded text up to one of the bytes `ends`."""
    data = bytearray()
    while source.next != _END and source.next not in ends:
        byte = source.take()
        if byte == _PLUS:
            byte = 0x20
        elif byte == _PERCENT:
            byte = source.take_hex(2)
        if len(data) <= most:
            data.append(byte)
    return _decode(data, most)


# JSON: one flat object, {"name": text, number, true, false, null or a list of such, …}


def _read_json(source):
    fields = {}
    _expect(source, b"{")
    if source.skip_blanks() == _CLOSE_OBJECT:
        source.take()
    else:
        more = True
        while more:
            source.skip_blanks()
            name = _json_text(source, _NAME_MAX)
            _expect(source, b":")
            _add(fields, name, _json_value(source, True))
            more = _expect(source, b",}") != _CLOSE_OBJECT
    if source.skip_blanks() != _END:
        raise Refusal(400, "the JSON goes on after its end")
    return fields


def _expect(source, allowed):
    """Pass over blanks and one of the bytes `allowed`, which is returned."""
    source.skip_blanks()
    if not source.comes(allowed):
        wanted = " or ".join(allowed.decode())
        raise Refusal(400, f"the body is not a flat JSON object: expected {wanted}")
    return source.take()


def _json_value(source, may_be_list):
    source.skip_blanks()
    if source.next == _QUOTE:
        return _json_text(source, _TEXT_MAX)
    if source.next == _OPEN_LIST and may_be_list:
        return _json_list(source)
    data = bytearray()
    while source.comes(_WORD_BYTES) and len(data) <= _TEXT_MAX:
        data.append(source.take())
    return _json_word(_decode(data, _TEXT_MAX))


def _json_list(source):
    source.take()
    values = []
    if source.skip_blanks() == _CLOSE_LIST:
        source.take()
        return values
    while len(values) < _LIST_MAX:
        values.append(_json_value(source, False))
        if _expect(source, b",]") == _CLOSE_LIST:
            return values
    raise Refusal(400, f"a list may have {_LIST_MAX} values at most")


def _json_word(text):
    """The value of `text`, a number or true, false or null, as JSON spells them."""
    if text in _WORDS:
        return _WORDS[text]
    digits = text[1:] if text.startswith("-") else text
    if digits[:1].isdigit() and (digits[:1] != "0" or digits[1:2] in ("", ".", "e", "E")):
        try:
            return int(text) if digits.isdigit() and len(digits) <= 19 else float(text)
        except ValueError:
            pass
    raise Refusal(400, "a value must be text, a number, true, false, null, or a list of such")


def _json_text(source, most):
    if source.next != _QUOTE:
        raise Refusal(400, "the body is not a flat JSON object: expected text in double quotes")
    source.take()
    data = bytearray()
    while source.next != _QUOTE:
        byte = source.take()
        if byte < 0x20:  # a control character, or the end
            raise Refusal(400, "a text in the JSON has no end")
        piece = _json_escape(source) if byte == _BACKSLASH else bytes((byte,))
        if len(data) <= most:
            data.extend(piece)
    source.take()
    return _decode(data, most)


def _json_escape(source):
    """The bytes that an escape stands for; its backslash is already passed over."""
    if source.comes(b"u"):
        source.take()
        code = source.take_hex(4)
        # Not by `chr`: MicroPython keeps every character that it makes so for ever.
        if code < 0x80:
            return bytes((code,))
        if code < 0x800:
            return bytes((0xC0 | code >> 6, 0x80 | code & 0x3F))
        # Characters beyond 16 bits come as two halves; no name or value that we know has any.
        if 0xD800 <= code < 0xE000:
            return b"?"
        return bytes((0xE0 | code >> 12, 0x80 | code >> 6 & 0x3F, 0x80 | code & 0x3F))
    if not source.comes(_ESCAPES):
        raise Refusal(400, "JSON has no such escape")
    at = _ESCAPES.find(bytes((source.take(),)))
    return _ESCAPED[at : at + 1]
