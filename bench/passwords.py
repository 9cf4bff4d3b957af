"""`python -m bench.passwords`: CPU to sign a poll's request, and to check its answer's proof."""

import timeit

from bench.boards import NONCE, PASSWORD, board_id, status
from espnet.board.digest import Login

ROUNDS, CALLS = 5, 20_000


def digest_us() -> tuple[float, float]:
    """To sign, to check; the best of some rounds."""
    login, body = Login(board_id(1), lambda _: (PASSWORD,)), status(1, fenced=True)
    request = b"GET /?fence=1234567 HTTP/1.1\r\nHost: 192.168.1.17\r\n\r\n"
    challenge = (
        f'Digest realm="EspNet {board_id(1)}", nonce="{NONCE}", algorithm=SHA-256, qop="auth-int"'
    )
    login.answered(401, challenge.encode(), b"", b"")
    info = b'rspauth="%b"' % (b"0" * 64)
    login.signed(request)
    signing, checking = (
        min(timeit.repeat(what, number=CALLS, repeat=ROUNDS)) / CALLS * 1e6
        for what in (
            lambda: login.signed(request),
            lambda: login.answered(200, b"", info, body),
        )
    )
    return signing, checking


def main() -> None:
    signing_us, checking_us = digest_us()
    print(
        f"A password costs a poll {signing_us:.1f} µs to sign the request and {checking_us:.1f} µs to check "
        "the board's proof; the rest of the difference is bytes and their way."
    )


if __name__ == "__main__":
    main()
