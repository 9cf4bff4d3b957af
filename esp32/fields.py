"""The fields of a request: read from a JSON object or a form, then checked one by one.

MicroPython's own `json` reads `{"pin" 4,,}` without complaint. Here a body is exactly right or it is
refused, because what it says moves pins. It is read byte by byte, so that even one of 8 KB needs no
large allocation.

    400   not JSON and not a form, or a field is missing, given twice or not of its type
    422   of the right type, but not a value that is allowed
"""

from web import Refusal

NAME_MAX = 32
TEXT_MAX = 256  # bytes of one value
FIELDS_MAX = 16
LIST_MAX = 40

_END = -1
_QUOTE, _BACKSLASH, _EQUALS, _PLUS, _PERCENT = b'"\\=+%'
_OPEN_OBJECT, _CLOSE_OBJECT, _OPEN_LIST, _CLOSE_LIST = b"{}[]"
_BLANKS = b" \t\r\n"
_HEX = b"0123456789abcdef"
_WORDS = {"true": True, "false": False, "null": None}
_WORD_BYTES = b"+-.0123456789Eabcdefghijklmnopqrstuvwxyz"  # of numbers, true, false and null
_ESCAPES = {  # what may follow a backslash in JSON, beside u
    ord('"'): b'"',
    ord("\\"): b"\\",
    ord("/"): b"/",
    ord("b"): b"\b",
    ord("f"): b"\f",
    ord("n"): b"\n",
    ord("r"): b"\r",
    ord("t"): b"\t",
}


def read(request):
    """{name: value} of a request's body: text from a form, any JSON type but an object from JSON.

    Fields that no call knows are tolerated, as they were in 2021. A missing Content-Type is
    guessed, and what begins with a brace is JSON, whatever `curl -d` says about it.
    """
    source = _Source(request.body)
    if source.skip_blanks() == _OPEN_OBJECT or request.kind == b"application/json":
        return _read_json(source)
    if request.kind in (b"", b"application/x-www-form-urlencoded"):
        return _read_form(source)
    raise Refusal(400, "the body must be application/json or application/x-www-form-urlencoded")


class _Source:
    """The bytes of a list of pieces, one at a time; `next` is the one that comes, or _END."""

    def __init__(self, pieces):
        self._bytes = self._each(pieces)
        self.next = next(self._bytes, _END)

    def _each(self, pieces):
        for piece in pieces:
            yield from piece

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
    if len(fields) >= FIELDS_MAX:
        raise Refusal(400, f"a body may have {FIELDS_MAX} fields at most")
    fields[name] = value


def _decode(data, most):
    """`data` as text, when it is UTF-8 and not longer than `most` bytes."""
    if len(data) > most:
        raise Refusal(400, f"names may have {NAME_MAX} bytes, values {TEXT_MAX}")
    try:
        return str(data, "utf-8")
    except UnicodeError as error:
        raise Refusal(400, "the body is not UTF-8") from error


# Forms: name=value&name=value, with + for a space and % escapes


def _read_form(source):
    fields = {}
    while source.next != _END:
        name = _form_text(source, b"=&", NAME_MAX)
        value = ""
        if source.next == _EQUALS:
            source.take()
            value = _form_text(source, b"&", TEXT_MAX)
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
            name = _json_text(source, NAME_MAX)
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
        return _json_text(source, TEXT_MAX)
    if source.next == _OPEN_LIST and may_be_list:
        return _json_list(source)
    data = bytearray()
    while source.comes(_WORD_BYTES) and len(data) <= TEXT_MAX:
        data.append(source.take())
    return _json_word(_decode(data, TEXT_MAX))


def _json_list(source):
    source.take()
    values = []
    if source.skip_blanks() == _CLOSE_LIST:
        source.take()
        return values
    while len(values) < LIST_MAX:
        values.append(_json_value(source, False))
        if _expect(source, b",]") == _CLOSE_LIST:
            return values
    raise Refusal(400, f"a list may have {LIST_MAX} values at most")


def _json_word(text):
    """The value of `text`, a number or true, false or null, as JSON spells them."""
    if text in _WORDS:
        return _WORDS[text]
    number = _whole(text)
    if number is not None:
        return number
    digits = text[1:] if text.startswith("-") else text
    try:
        if digits[:1].isdigit() and (digits[0] != "0" or digits[1:2] in ("", ".", "e", "E")):
            return float(text)
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
        piece = bytes((byte,))
        if byte == _BACKSLASH:
            escape = source.take()
            if escape == ord("u"):
                code = source.take_hex(4)  # no name and no value that we know needs surrogates
                piece = b"?" if 0xD800 <= code < 0xE000 else chr(code).encode()
            elif escape in _ESCAPES:
                piece = _ESCAPES[escape]
            else:
                raise Refusal(400, "JSON has no such escape")
        if len(data) <= most:
            data.extend(piece)
    source.take()
    return _decode(data, most)


# Checks


def _whole(value):
    """The integer that `value` plainly is, or None.

    4 and "4" are integers; true, 4.0, "04", "+4", " 4", "4_0" and "0x4" are not.
    """
    if isinstance(value, str):
        try:
            number = int(value) if len(value) <= 9 else None
        except ValueError:
            return None
        return number if str(number) == value else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def whole(fields, name, low, high):
    """Field `name` as an integer of `low` to `high`."""
    rule = f"{name} must be a whole number from {low} to {high}"
    number = _whole(fields.get(name))
    if number is None:
        raise Refusal(400, rule if name in fields else f"{name} is missing; {rule}", name)
    if not low <= number <= high:
        raise Refusal(422, rule, name)
    return number


def pins(fields, name):
    """Field `name` as a list of distinct numbers: from 4, "4", "4,5" or [4, 5].

    Whether there are such pins is not looked at here.
    """
    value = fields.get(name)
    if isinstance(value, str):
        value = value.split(",")
    elif not isinstance(value, list):
        value = [value]
    numbers = []
    for item in value or (None,):
        number = _whole(item)
        if number is None:
            rule = f"{name} must be a pin number, or several with commas between"
            raise Refusal(400, rule if name in fields else f"{name} is missing; {rule}", name)
        if number not in numbers:
            numbers.append(number)
    return numbers


def pin(fields, name):
    """Field `name` as exactly one pin number."""
    numbers = pins(fields, name)
    if len(numbers) > 1:
        raise Refusal(400, f"{name} must be one pin number", name)
    return numbers[0]


def ipv4(fields, name):
    """Field `name` as an IPv4 address in dotted decimal form."""
    value = fields.get(name)
    rule = f"{name} must be an IPv4 address like 192.168.1.5"
    if not isinstance(value, str):
        raise Refusal(400, rule if name in fields else f"{name} is missing; {rule}", name)
    parts = [_whole(part) for part in value.split(".")]
    if len(parts) != 4 or not all(part is not None and 0 <= part <= 255 for part in parts):
        raise Refusal(422, rule, name)
    return value
