"""The page's own SHA-256."""

import hashlib
import random

from .conftest import ROOT


def test_against_pythons(visit) -> None:
    """Texts of all lengths around the blocks' ends, of all scripts, and long ones: as hashlib says."""
    dice = random.Random(8)
    texts = ["a" * n for n in range(0, 260)]
    texts += [
        "".join(chr(dice.choice((65, 0xE9, 0x20AC, 0x1F511))) for _ in range(n)) for n in range(150)
    ]
    texts += [
        "".join(chr(dice.randrange(0x20, 0xD800)) for _ in range(dice.randrange(400)))
        for _ in range(300)
    ]
    texts += ["x" * 100_000]
    page = visit(path=None)
    page.set_content((ROOT / "esp32" / "ui.html").read_text(encoding="utf-8"))
    found = page.evaluate("texts => texts.map(sha256)", texts)
    assert found == [hashlib.sha256(text.encode()).hexdigest() for text in texts]
