"""Laws of `espnet.watch`: who is made due by a reading that changed sides."""

import msgspec
from board_wire import status_body

from espnet.model import Job, Reading, Threshold, Timer, decode_status
from espnet.watch import Watch

NAMES = {"b1": "porch", "b2": "attic", "b3": "cellar"}


def heater(source: str, name: str = "heater", **more: object) -> Threshold:
    return Threshold(
        name=name, pin=5, start="00:00", hours=24, zone="UTC", input=source, target=80, stale="off",
        **more,
    )  # fmt: skip


def watching(**jobs: tuple[Job, ...]) -> Watch:
    watch = Watch()
    watch.learn(b"1", jobs, NAMES)
    return watch


def says(watch: Watch, f: float | None, name: str = "porch") -> list[str]:
    """Who is woken when a board's temperature is this."""
    body = status_body(f=f)
    reading = Reading(
        at=1.0, poll_s=0.1, interval_s=10.0, collector="here", status=msgspec.Raw(body)
    )
    watch.saw(name, reading, decode_status(body))
    return watch.take_woken()


def test_a_reading_that_changes_sides_wakes_who_looks_at_it() -> None:
    """Once a change, each device once; a sensor that fails changes sides too, and so does the first look."""
    watch = watching(b2=(heater("porch.f"), heater("porch.f", "other")), b3=(heater("attic.f"),))
    answers = [says(watch, f) for f in (70, 71, 90, 91, None, None, 70, 80)]
    assert answers == [["b2"], [], ["b2"], [], ["b2"], [], ["b2"], ["b2"]]
    assert says(watch, 90, "attic") == ["b3"]
    assert says(watch, 70, "attic") == ["b3"]


def test_who_decides_anyway_is_not_woken() -> None:
    """A board decides at its own poll; timers and disabled jobs look at nothing."""
    lamp = Timer(name="lamp", pin=4, start="07:00", hours=2, zone="UTC")
    watch = watching(
        b1=(heater("porch.f"),),
        b2=(heater("porch.f", enabled=False), lamp, heater("redis:porch.f")),
    )
    assert [says(watch, f) for f in (70, 90, 70)] == [[], [], []]


def test_a_band_is_a_side_of_its_own() -> None:
    """Above, within and below: each is news to a threshold."""
    watch = watching(b2=(heater("porch.f", band=5.0),))
    assert [says(watch, f) for f in (70, 80, 78, 90)] == [["b2"], ["b2"], [], ["b2"]]


def test_what_was_learned_anew_is_all_that_is_known() -> None:
    """Jobs that are gone wake nobody, new ones at the first look; others are not looked at anew."""
    watch = watching(b2=(heater("porch.f"),))
    says(watch, 70)
    watch.learn(b"2", {"b3": (heater("porch.f"),)}, NAMES)
    assert watch.version == b"2"
    assert [says(watch, f) for f in (90, 70)] == [["b3"], ["b3"]]
    watch.learn(b"3", {"b3": (heater("porch.f"),)}, NAMES)
    assert says(watch, 70) == []
