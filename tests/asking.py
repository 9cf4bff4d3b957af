"""A process that asks boards, to be stopped by a test: ``-m tests.asking round|exchange ADDRESS …``.

It says ``open`` when it has a connection to each, asks them when it is told a line, and says ``open`` of each
that answered and kept its connection.
"""

import asyncio
import sys

import uvloop

from espnet.board.calls import GET_BASIC
from espnet.board.link import Link, request_bytes
from espnet.board.round import Round
from espnet.clock import SystemClock

TIMEOUT_S = 2.0


async def main(how: str, *addresses: str) -> None:
    links = [Link(address) for address in addresses]
    requests = [request_bytes(address, GET_BASIC) for address in addresses]
    for link, request in zip(links, requests, strict=True):
        await link.exchange(request, TIMEOUT_S)
    print("open", flush=True)
    sys.stdin.readline()
    if how == "round":
        round_: Round[None] = Round(SystemClock(), TIMEOUT_S)
        for link, request in zip(links, requests, strict=True):
            assert round_.ask(link, request, None)
        while answers := await round_.answers():
            for asked in answers:
                print(
                    "open"
                    if asked.link.end(asked.outcome) and asked.link.is_open
                    else asked.outcome
                )
        round_.close()
    else:
        calls = [
            link.exchange(request, TIMEOUT_S) for link, request in zip(links, requests, strict=True)
        ]
        for link, answer in zip(
            links, await asyncio.gather(*calls, return_exceptions=True), strict=True
        ):
            print("open" if isinstance(answer, bytes) and link.is_open else answer)
    for link in links:
        link.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*sys.argv[1:]))
