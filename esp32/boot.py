# Runs first, before anybody can interrupt. It does nothing, on purpose: what cannot fail here
# cannot lose the board. Everything starts in main.py.
