"""`make bench`: polls per CPU-second of the whole trip, with jobs and without, with keep-alive and without.

Rounds are interleaved, because machines are shared and noisy; the medians count. The results go to
``bench/results.json``: one object a variant, the same keys in each.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import timeit
from pathlib import Path

from bench.boards import NONCE, PASSWORD, board_id, status
from espnet import server
from espnet.board.digest import Login

ROUNDS, SECONDS = 5, 2.0
#: What boards do, and how many jobs each device has.
VARIANTS: dict[str, tuple[list[str], int]] = {
    "espnet": ([], 0),
    "espnet_with_one_job": ([], 1),
    "espnet_with_two_jobs": ([], 2),
    "espnet_without_keep_alive": (["close"], 0),
    # Boards that know leases, so that their polls carry a fence; and the same, claimed.
    "espnet_fenced": (["fenced"], 0),
    "espnet_claimed": (["claimed"], 0),
}
RESULTS = Path(__file__).with_name("results.json")


def run(url: str, options: list[str], jobs: int) -> dict[str, float]:
    """One round: fresh boards, a fresh collecting process."""
    boards = subprocess.Popen(
        [sys.executable, "-m", "bench.boards", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert boards.stdout is not None
    try:
        ports = json.loads(boards.stdout.readline())
        done = subprocess.run(
            [
                *(sys.executable, "-m", "bench.trip", url, str(SECONDS), str(jobs)),
                *("claimed" if "claimed" in options else "open", *map(str, ports)),
            ],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)
    finally:
        boards.communicate()  # ends its input, and with that the boards


def digest_us() -> tuple[float, float]:
    """Microseconds of CPU to sign a poll's request, and to check the proof of its answer."""
    login, body = Login(board_id(1), lambda _: (PASSWORD,)), status(1, fenced=True)
    request = b"GET /?fence=1234567 HTTP/1.1\r\nHost: 192.168.1.17\r\n\r\n"
    challenge = (
        f'Digest realm="EspNet {board_id(1)}", nonce="{NONCE}", algorithm=SHA-256, qop="auth-int"'
    )
    login.answered(401, challenge.encode(), b"", b"")
    info = b'rspauth="%b"' % (b"0" * 64)
    login.signed(request)
    signing, checking = (
        min(timeit.repeat(what, number=20_000, repeat=ROUNDS)) / 20_000 * 1e6
        for what in (
            lambda: login.signed(request),
            lambda: login.answered(200, b"", info, body),
        )
    )
    return signing, checking


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="espnet-bench-") as folder:
        url = server.find(None, Path(folder), default_sockets=()).url
        try:
            rounds: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
            for _ in range(ROUNDS):
                for name, how in VARIANTS.items():
                    rounds[name].append(run(url, *how))
        finally:
            server.stop(Path(folder))
    results = {
        name: {key: statistics.median(r[key] for r in found) for key in found[0]}
        for name, found in rounds.items()
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(f"{'':27} {'polls per CPU-second':>21} {'Redis round trips/poll':>23} {'memory':>9}")
    for name, figures in results.items():
        print(
            f"{name.replace('_', ' '):27} {figures['polls_per_cpu_s']:>21,.0f} "
            f"{figures['redis_round_trips_per_poll']:>23.3f} {figures['rss_kb'] / 1024:>6.0f} MB"
        )
    share = (
        1
        - results["espnet_claimed"]["polls_per_cpu_s"] / results["espnet_fenced"]["polls_per_cpu_s"]
    )
    signing_us, checking_us = digest_us()
    print(
        f"Passwords take {share:.1%} of a trip (claimed against fenced): {signing_us:.1f} µs to sign the "
        f"request, {checking_us:.1f} µs to check the board's proof; the rest is bytes and their way."
    )
    print(f"Medians of {ROUNDS} rounds, 100 boards, 34 pins each; written to {RESULTS.name}.")


if __name__ == "__main__":
    main()
