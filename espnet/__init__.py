"""EspNet: a CLI-centric manager of ESP32 boards that run MicroPython.

::

            esp32/ (MicroPython: the board's own web server, pins, sensors)
              ▲ HTTP
              │
   board ◀────┴────▶ collector ── commit ──▶ store (Redis) ── stream ──▶ uploader ──▶ sinks ──▶ Datadog …
                        ▲                       ▲
                 claim ─┘                       └── cli (python-fire): reads the store, or takes the
                                                    board's lock and calls it

One poll is one trip: **claim** what is due, **read** the board, **commit** reading and samples in
one Redis round trip. Imports go strictly downward, and a test enforces it:

=====  ==========================================  ====================================================
layer  module                                      responsibility
=====  ==========================================  ====================================================
0      ``errors`` ``clock`` ``model``              the error tree; time; frozen records and their codecs
1      ``board/``                                  every call that a board understands, sent two ways
1      ``server``                                  which Redis is used; the embedded one
1      ``sinks/``                                  one file a place that samples go
1      ``windows``                                 when timers are open: pure
2      ``jobs``                                    what a pin should be, and why: pure
2      ``store``                                   every Redis key, script and codec
3      ``trip``                                    what a poll's answer becomes: pure
4      ``collector`` ``uploader``                  the trips; the stream to the sinks
4      ``config`` ``simulator/``                   the environment; boards without hardware
5      ``daemon``                                  the loops, signals and the ordered stop
6      ``cli/``                                    fire classes, rendering, exit codes, the demo
=====  ==========================================  ====================================================

Three sockets, three rooms: only ``board/`` speaks HTTP to boards, only ``store`` and ``server`` speak
Redis, only ``sinks/`` speaks to the outside. Only ``cli`` prints or exits; only ``config`` reads the
environment; only ``clock`` reads the time.
"""

__version__ = "0.1.0"
