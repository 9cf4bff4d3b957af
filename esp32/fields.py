"""The fields of a call, checked one by one; what is not right is refused with the field's name.

400   missing, or not of its type
422   of its type, but not a value that is allowed; or no text that can be shown
"""

from http1 import Refusal


def _whole(value):
    """The integer that `value` plainly is, or None.

    4 and "4" are integers; true, 4.0, "04", "+4", " 4", "4_0" and "0x4" are not.
    """
    if isinstance(value, str):
        try:
            number = int(value) if len(value) <= 19 else None
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


def word(fields, name, allowed, default):
    """Field `name` as one of the words `allowed`; `default` when it is absent."""
    value = fields.get(name, default)
    rule = f"{name} must be one of {', '.join(sorted(allowed))}"
    if not isinstance(value, str):
        raise Refusal(400, rule, name)
    if value not in allowed:
        raise Refusal(422, rule, name)
    return value


def text(fields, name, most):
    """Field `name` as text for people: 1 to `most` printable characters, not all blank.

    Of the general punctuation those that nobody sees, or that turn the rest around, are not printable.
    It is looked at as bytes: MicroPython keeps every character that it takes out of a text for ever.
    """
    value = fields.get(name)
    if not isinstance(value, str) or len(value) > most:
        value = ""
    last = 0  # three bytes
    for byte in value.encode():
        last = last << 8 & 0xFFFFFF | byte
        if (
            byte < 0x20
            or byte == 0x7F
            or 0xC280 <= last & 0xFFFF < 0xC2A0
            or (0xE28080 <= last < 0xE281C0 and not 0xE28090 <= last < 0xE280A8)
        ):
            value = ""
    if not value.strip():
        raise Refusal(422, f"{name} must be text of 1 to {most} printable characters", name)
    return value


def query(query, name):
    """The text of `name` in a request's query, or None. Nothing is decoded: no value needs it."""
    start = name.encode() + b"="
    found = [part[len(start) :] for part in query.split(b"&") if part.startswith(start)]
    if not found:
        return None
    if len(found) > 1 or not found[0].isdigit():
        raise Refusal(400, f"{name} must be given once, as a decimal number", name)
    return found[0].decode()


def is_ipv4(text):
    """Whether `text` is an IPv4 address in dotted decimal form."""
    parts = [_whole(part) for part in text.split(".")]
    return len(parts) == 4 and all(part is not None and 0 <= part <= 255 for part in parts)


def ipv4(fields, name):
    """Field `name` as an IPv4 address."""
    value = fields.get(name)
    rule = f"{name} must be an IPv4 address like 192.168.1.5"
    if not isinstance(value, str):
        raise Refusal(400, rule if name in fields else f"{name} is missing; {rule}", name)
    if not is_ipv4(value):
        raise Refusal(422, rule, name)
    return value
