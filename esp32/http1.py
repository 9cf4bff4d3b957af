"""What HTTP/1 looks like: requests as they come in, answers as they go out. No sockets here.

Of a request, everything that says where it ends is checked here, and refused when it is not plain:
to guess the length of a body is how one client's bytes become another one's request.
"""

from micropython import const

JSON = "application/json"

HEAD_MAX = const(1536)
BODY_MAX = const(8192)

# The headers that say who asks, and for what page, each once: of two, one would be checked and the
# other one believed.
_KEPT = (
    b"host",
    b"origin",
    b"sec-fetch-site",
    b"user-agent",
    b"authorization",
    b"if-none-match",
)


class Refusal(Exception):
    """A request that is answered with an error.

    `error` is a sentence that says what was wrong and what is allowed, `field` the field that it is
    about, `header` one more complete header line, `more` further members of the JSON answer.
    """

    def __init__(self, status, error, field=None, header="", more=None):
        self.status = status
        self.header = header
        self.body = {"error": error, "field": field}
        if more:
            self.body.update(more)


class Stream:
    """An answer in pieces: media type, length in bytes, and a generator of one or more pieces."""

    def __init__(self, kind, length, pieces, status=200):
        self.status = status
        self.kind = kind
        self.length = length
        self.pieces = pieces


class Request:
    """What a client asks. Names and values are the bytes that came.

    `kind` is the media type in lower case without parameters, `headers` the texts of _KEPT, `body` a
    list of pieces, 8 KB at most in all. `nonce` is the digest's "nonce:nc", once that proved right;
    `header` is more header lines for the answer.
    """

    def __init__(self, method, target):
        self.method = method
        self.target = target
        self.path, _, self.query = target.partition(b"?")
        self.headers = [""] * len(_KEPT)
        self.kind = b""
        self.length = None
        self.close = False
        self.expects_continue = False
        self.body = []
        self.nonce = None
        self.header = ""

    def sign(self, body):
        """One more header line for the answer, made of its body's pieces: the digest puts it here."""
        return ""


def parse_head(head):
    """The Request that a head, with its blank line, describes.

    Raises Refusal for what is not plain HTTP/1: where such a request ends, one could only guess.
    """
    if b"\0" in head or head.count(b"\n") != head.count(b"\r\n"):
        raise Refusal(400, "the lines of a request's head must end in CR LF and contain no NUL")
    lines = head.split(b"\r\n")
    words = lines[0].split(b" ")
    if (
        len(words) != 3
        or not words[0].isalpha()
        or not words[1].startswith(b"/")
        or words[2] not in (b"HTTP/1.1", b"HTTP/1.0")
    ):
        raise Refusal(400, "the first line of a request must be: METHOD /path HTTP/1.1")
    request = Request(words[0], words[1])
    request.close = words[2] == b"HTTP/1.0"
    for line in lines[1:-2]:
        name, colon, value = line.partition(b":")
        if not colon or not name or b" " in name or b"\t" in name:
            raise Refusal(400, "a header must be: Name: value")
        name = name.lower()
        if name == b"connection":
            request.close = request.close or b"close" in value.lower()
        elif name == b"content-type":
            request.kind = value.partition(b";")[0].strip().lower()
        elif name == b"content-length":
            value = value.strip()
            if request.length is not None or not value.isdigit():
                raise Refusal(400, "Content-Length must be given once, as a decimal number")
            request.length = int(value) if len(value) < 9 else BODY_MAX + 1
        elif name == b"transfer-encoding":
            raise Refusal(411, "send the body with a Content-Length and no Transfer-Encoding")
        elif name == b"expect":
            request.expects_continue = value.strip().lower() == b"100-continue"
        elif name in _KEPT:
            index = _KEPT.index(name)
            try:
                if not request.headers[index]:
                    request.headers[index] = value.strip().decode()
                    continue
            except UnicodeError:
                pass
            raise Refusal(400, "a header is no text or given twice")
    request.length = request.length or 0
    if request.length > BODY_MAX:
        raise Refusal(413, f"a body may have {BODY_MAX} bytes at most")
    return request


def response(status, kind, length, close, header, body):
    """An answer, or the first part of one, as the bytes of one write; `body` is bytes."""
    last = "Connection: close\r\n" if close else ""
    head = (
        f"HTTP/1.1 {status} {'OK' if status < 400 else 'Refused'}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {length}\r\n{header}{last}\r\n"
    )
    return head.encode() + body


def last_word(status, error, header=""):
    """An answer made in advance, for when there is no memory or no time to make one."""
    body = f'{{"error": "{error}", "field": null}}'.encode()
    return response(status, JSON, len(body), True, header, body)
