"""What goes onto a board's flash."""

from espnet.firmware import build

from .firmware_client import FIRMWARE

LIMIT = 120_000  # bytes


def test_the_firmware_is_small() -> None:
    """All that is put onto a board takes 120 kB at most, page, switch and manifest included; each module
    takes less than 8 KB, which a board of little memory can load."""
    release = build(FIRMWARE)
    files = {**release.files, **release.switch, "manifest": release.manifest}
    sizes = {name: len(data) for name, data in files.items()}
    assert sum(sizes.values()) <= LIMIT, sizes
    assert all(size < 8192 for name, size in sizes.items() if name.endswith(".mpy")), sizes
