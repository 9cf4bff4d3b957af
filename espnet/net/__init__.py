"""Asking the network within a time: what `board/` and `sinks/` share.

Invariants: nothing in here knows what is asked, or of whom. Whatever the far end does, a call ends in
the time that it was given: a deadline covers the whole of it, and not each of its waits.
"""
