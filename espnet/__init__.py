"""EspNet: a CLI-centric manager of ESP32 boards that run MicroPython.

::

            esp32/ (MicroPython: the board's own web server, pins, sensors)
              ▲ HTTP
              │
   board ◀────┴────▶ collector ── commit ──▶ store (Redis) ── stream ──▶ uploader ──▶ sinks ──▶ Datadog …
              │      ▲   │                      ▲
   decide ────┼──────┘   └── write the          └── cli (python-fire): reads the store, or takes the
    jobs      └───────────── difference             board's lock and calls it

One poll is one trip: **claim** what is due, **read** the board, **decide** what its pins should be,
**write** the difference on the same connection, under the same lock, **commit** reading, samples and
memory in one Redis round trip. Imports go strictly downward, and a test enforces it:

=====  ==========================================  ====================================================
layer  module                                      responsibility
=====  ==========================================  ====================================================
0      ``errors`` ``clock``                        the error tree; time
0      ``model`` ``samples``                       frozen records and their codecs
0      ``names``                                   what people may call things: pure
0      ``credential``                              boards' passwords, which nothing prints
0      ``net/``                                    asking the network within a time
1      ``board/``                                  every call that a board understands, sent two ways
1      ``firmware``                                a release: what goes onto a board
1      ``server/``                                 which Redis is used; the embedded one; sentinels
1      ``sinks/``                                  one file a place that samples go
1      ``windows`` ``inputs``                      when timers are open; what a text names: pure
1      ``blocks/``                                 readings as packed blocks, minima, means, maxima: pure
1      ``series``                                  which metrics a device makes: pure
1      ``rollout``                                 updates of several boards, board by board: pure
2      ``jobs``                                    what a pin should be, and why: pure
2      ``pace``                                    how fast a board may be polled: pure
2      ``store/``                                  every Redis key, script and codec
2      ``settings``                                what a board's settings.json may say: pure
3      ``trip``                                    what a poll's answer becomes: pure
3      ``watch``                                   who looks at whose readings
3      ``cable/``                                  flash, files and settings of a board, over USB
4      ``visit``                                   one visit to one board: read, decide, write
5      ``collector/`` ``uploader``                 claims, batches, commits; the stream to the sinks
5      ``historian``                               the stream to the history
5      ``config`` ``simulator/``                   the environment; boards without hardware
5      ``exposition``                              what Prometheus is shown
6      ``outlets`` ``follower``                    the sinks that the settings choose; boards that moved
6      ``supervisor``                              what a service manager is told
6      ``updates/``                                the firmware onto the boards, over the air
7      ``daemon``                                  the loops, signals and the ordered stop
8      ``cli/``                                    fire classes, rendering, exit codes, the demo
=====  ==========================================  ====================================================

Three sockets, three rooms: only ``board/`` speaks HTTP to boards, only ``store`` and ``server`` speak
Redis, only ``sinks/`` speaks to the outside; ``net/`` is what the first and the last ask with. Only
``cli`` prints or exits; only ``config`` reads the environment; only ``clock`` reads the time.
"""

__version__ = "0.1.0"
