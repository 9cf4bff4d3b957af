"""Updates over the air: the one rollout, driven by whoever is there to drive it.

::

    driver   the lease, the waves, a thread a board      rollout (layer 1)   what is next: pure
       │
    install  one board: send, switch, try, confirm   ends   how that ends other than well
       │
       ├── sending   until the switch
       ├── trial     after it
       │     │
       │    work     its record, and how the board is asked, for both
       │     │
      talk     one board's calls: signed, proved, fenced, under its lock

Nothing here prints or exits; a driver is used by `espcli update` and by `espcli run` alike.
"""

from espnet.updates.driver import AT_ONCE, Driver
from espnet.updates.trial import LATEST_S

__all__ = ["AT_ONCE", "LATEST_S", "Driver"]
