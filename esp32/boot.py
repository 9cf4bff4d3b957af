# Runs first, before anybody can interrupt. It does next to nothing, on purpose: what cannot fail
# here cannot lose the board. Everything starts in main.py.

import gc

# While the program loads, collect often: what stays is then packed together at the heap's start,
# and the free rest stays in one piece. main.py has it done less often afterwards.
gc.threshold(2048)
