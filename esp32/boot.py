# Runs first, before anybody can interrupt. It does next to nothing, on purpose: what cannot fail
# here cannot lose the board. Everything starts in main.py.

import gc

# While the program loads, collect often: what stays is then packed together at the heap's start,
# and the free rest stays in one piece. main.py goes back to collecting when memory runs out.
gc.threshold(2048)
