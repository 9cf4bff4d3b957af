"""The hardware ids of simulated boards: by the seed, and some of them hard to keep as they are."""

import hashlib


def board_ids(seed: int, count: int) -> list[str]:
    """Hardware ids, the same for the same seed; the first three look like numbers.

    Ids such as ``2e9672320848`` and ``103466711205`` are what mangles on its way through programs
    that guess types, so every fleet has some.
    """
    found: list[str] = []
    n = 0
    while len(found) < count:
        digest = hashlib.sha256(f"espnet/{seed}/{n}".encode()).hexdigest()
        digits = str(int(digest, 16))[-12:].zfill(12)
        shape = n % 10
        made = {0: "2e" + digits[:10], 1: "1" + digits[:11], 2: "1e" + digits[:10]}.get(shape)
        made = made or digest[:12]
        if made not in found[-64:] and made not in set(found):
            found.append(made)
        n += 1
    return found
