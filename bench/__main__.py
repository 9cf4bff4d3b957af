"""`make bench`: what a poll costs EspNet and others, side by side in one run.

    python -m bench [--write] [--only NAME,NAME] [--rounds N] [--seconds S]

Prints the table and writes ``results.json`` beside this file: one object a system, the same keys in each.
``--write`` also puts the table into docs/performance.md and draws docs/bench.png.
"""

import argparse
import sys
from pathlib import Path

import msgspec

from bench import passwords, picture, rounds, table
from bench.peers import everybody
from bench.processes import end_when_asked

ROUNDS, SECONDS = 5, 2.5
RESULTS = Path(__file__).with_name("results.json")
DRAFT = Path(__file__).parent.parent / "build" / "bench" / "bench.png"


def main() -> None:
    asked = argparse.ArgumentParser(prog="python -m bench")
    asked.add_argument("--write", action="store_true", help="into docs/ too")
    asked.add_argument("--only", help="names as in results.json, with commas between")
    asked.add_argument("--rounds", type=int, default=ROUNDS)
    asked.add_argument("--seconds", type=float, default=SECONDS, help="of one window")
    options = asked.parse_args()
    if not Path("/proc/self/stat").exists():
        raise SystemExit("The bench reads CPU and memory from /proc; run it on Linux.")
    peers = everybody()
    if options.only:
        names = options.only.split(",")
        if unknown := set(names) - {peer.name for peer in peers}:
            raise SystemExit(f"There is no system {', '.join(sorted(unknown))}; see bench/peers.")
        peers = [peer for peer in peers if peer.name in names]
    end_when_asked()
    results = rounds.measure(
        peers,
        options.rounds,
        options.seconds,
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")
    print(table.markdown(results))
    passwords.main()
    drawn = picture.PICTURE if options.write else DRAFT
    drawn.parent.mkdir(parents=True, exist_ok=True)
    if any(result.polls_per_cpu_s for result in results.values()):
        picture.draw(results, drawn)
        print(f"Written to {RESULTS} and {drawn}.")
    if options.write:
        table.write("bench", table.markdown(results))


if __name__ == "__main__":
    main()
