"""Samples on their way to Datadog: names, tags and units as documented, and nothing lost silently."""

import signal
import time

import pytest

from espnet.simulator import Board
from espnet.simulator.intake import Answer, Intake

from .world import KEY, PATIENCE_S, World, polls, to_intake, wait_for


@pytest.fixture
def porch(world: World, boards: list[Board]) -> Board:
    """A registered board with a DHT22 that shows 21.5 °C and 40 %, 45 °C inside, pin 2 high."""
    board = boards[0]
    board.reset()  # other tests made outputs of its pins, and those heed nothing from outside
    board.set(board_c=45.0, dht={4: (21.5, 40)}, pins={"2": 1, "5": 0})
    world.espcli("register", board.address, "porch", "--tags", "room:outside,floor:0")
    world.espcli("device", "porch", "add_dht22", "air", "4")
    world.espcli("device", "porch", "report_pins", "2,5")
    return board


def test_samples_arrive_with_their_names_tags_and_units(
    world: World, porch: Board, intake: Intake
) -> None:
    """What a poll saw arrives under the documented names, in °F and %, with the device's name, id and
    own tags; of the pins only those that were asked for; and nothing else arrives."""
    run = world.start("10", **to_intake(intake.url))
    began = time.time()
    wait_for("three polls", lambda: len(intake.points("esp32.dht22.temp")) >= 3)
    assert run.stop() == 0
    assert not run.events("uploads.off", "upload.failed", "upload.paused")

    own = {"name:porch", f"id:{porch.id}", "room:outside", "floor:0"}
    assert set(intake.series()) == {
        ("esp32.up", frozenset(own)),
        ("esp32.poll_seconds", frozenset(own)),
        ("esp32.f", frozenset(own)),
        ("esp32.dht22.temp", frozenset(own | {"sensor:air"})),
        ("esp32.dht22.humidity", frozenset(own | {"sensor:air"})),
        ("esp32.gpio", frozenset(own | {"pin:2"})),
        ("esp32.gpio", frozenset(own | {"pin:5"})),
    }

    def values(metric: str, *tags: str) -> set[float]:
        return {value for _, value in intake.points(metric, *tags)}

    assert values("esp32.up") == {1}
    assert list(values("esp32.dht22.temp")) == [pytest.approx(70.7)]
    assert values("esp32.dht22.humidity") == {40}
    assert list(values("esp32.f")) == [pytest.approx(113, abs=1)]
    assert (values("esp32.gpio", "pin:2"), values("esp32.gpio", "pin:5")) == ({1}, {0})
    assert all(0 < value < 0.8 for value in values("esp32.poll_seconds"))
    # Stamped here, when the answer came.
    assert all(began - 5 <= at <= time.time() for at, _ in intake.points("esp32.up"))

    # What the last interval left goes by hand.
    world.espcli("upload_queued_metrics", **to_intake(intake.url))
    books = world.require_balance()
    assert books["accepted"] == books["collected"] == intake.accepted
    assert intake.not_ingested == 0


def test_a_board_that_is_away_arrives_as_down(
    world: World, boards: list[Board], intake: Intake
) -> None:
    """Of a board that does not answer, ``esp32.up`` 0 arrives, and no value that nobody measured."""
    world.register(boards[0])
    boards[0].fault("refuse")
    run = world.start("10", **to_intake(intake.url))
    wait_for("it is down", lambda: intake.points("esp32.up"))
    assert run.stop() == 0
    assert {metric for metric, _ in intake.series()} == {"esp32.up"}
    assert {value for _, value in intake.points("esp32.up")} == {0}
    world.require_balance()


def test_a_wrong_key_keeps_everything_and_says_so(
    world: World, porch: Board, intake: Intake
) -> None:
    """Samples that are refused (403) stay queued; the refusal is said once, never shows the key, and
    is not asked for again at every upload; with the right key they all arrive."""
    wrong = to_intake(intake.url, "a-wrong-key")
    run = world.start("10", **wrong)
    told = run.wait_for_event("upload.paused")
    assert "403" in told["reason"]
    assert "DATADOG_API_KEY" in told["reason"]
    with world.store() as store:
        (sink,) = [sink for sink in store.ledger().sinks if sink.name == "datadog"]
        assert sink.state is not None
        assert (sink.state.state, sink.state.status) == ("paused", 403)
        enough = sink.books.collected + 10
        wait_for("polls", lambda: store.ledger().queue.collected >= enough)
    assert run.stop() == 0
    assert len(run.events("upload.paused")) == intake.statuses[403] == 1
    assert "a-wrong-key" not in run.log
    error = world.espcli("upload_queued_metrics", code=1, **wrong)
    assert "403" in error
    assert "a-wrong-key" not in error
    books = world.require_balance()
    assert books["queued"] == books["collected"] > 0
    assert (books["accepted"], books["dropped"], intake.accepted) == (0, 0, 0)

    world.espcli("upload_queued_metrics", **to_intake(intake.url))
    after = world.require_balance()
    assert after["accepted"] == books["collected"] == intake.accepted
    assert after["queued"] == 0


def test_delivery_goes_on_after_the_intake_was_away(
    world: World, porch: Board, intake: Intake
) -> None:
    """Refusals under a running collector are said once, and once when delivery works again; every
    sample arrives exactly once."""
    intake.script([Answer(503), Answer(503)])
    run = world.start("10", **to_intake(intake.url))
    assert "503" in run.wait_for_event("upload.failed")["reason"]
    run.wait_for_event("upload.ok_again")
    assert run.stop() == 0
    assert len(run.events("upload.failed")) == len(run.events("upload.ok_again")) == 1
    assert intake.statuses[503] == 2
    world.espcli("upload_queued_metrics", **to_intake(intake.url))
    books = world.require_balance()
    assert books["accepted"] == books["collected"] == intake.accepted


def test_who_is_told_to_stop_begins_no_upload(
    world: World, boards: list[Board], intake: Intake
) -> None:
    """However long the last polls take, no sink is asked anew meanwhile: a stop takes as long as the
    slower of both, not one after the other."""
    silent, good = boards[:2]
    world.register(silent, good)
    run = world.start("10", "--device_requests_timeout", "3", **to_intake(intake.url))
    wait_for("an upload", lambda: intake.accepted)
    silent.fault("hang")
    wait_for("a poll in vain", lambda: polls(silent)[-1].fault == "hang")
    run.send(signal.SIGTERM)
    wait_for("no more polls", lambda: polls(good)[-1].at_s < time.monotonic() - 1)
    asked = intake.statuses.total()
    world.espcli("device", "b1", "update")
    assert run.process.wait(PATIENCE_S) == 0
    assert intake.statuses.total() == asked
    assert world.require_balance()["queued"] > 0


def test_each_sink_gets_everything_whatever_the_others_do(
    world: World, porch: Board, intake: Intake
) -> None:
    """Two sinks, one of which refuses all from the first moment: the other one has every sample, also
    those from before there was a sink, and the first one has them all when it wants them."""
    run = world.start("10")
    wait_for("two polls", lambda: len(world.samples()) >= 2)
    assert run.stop() == 0
    file = world.folder / "samples.jsonl"
    both = to_intake(intake.url) | {"ESPNET_SINKS": "file,datadog", "ESPNET_FILE": str(file)}
    right, intake.key = intake.key, "another"
    run = world.start("10", **both)
    run.wait_for_event("upload.paused")
    with world.store() as store:
        wait_for("both", lambda: store.ledger().books("file").accepted > 30)
    assert run.stop() == 0
    books = world.require_balance()
    assert (books["accepted"], books["queued"]) == (0, books["collected"])
    assert world.require_balance("file")["collected"] == books["collected"]
    assert "403" in world.espcli("upload_queued_metrics", code=1, **both)
    intake.key = right
    world.espcli("upload_queued_metrics", **both)
    for sink in ("datadog", "file"):
        books = world.require_balance(sink)
        assert books["accepted"] == books["collected"] == intake.accepted
    assert len(file.read_text().splitlines()) == intake.accepted
    # The history may not have read the last ones when the collector was stopped.
    with world.store() as store:
        assert sum(len(b.points) for b in world.samples()) == store.ledger().books("history").queued


def test_without_a_key_samples_wait_and_one_line_says_so(world: World, porch: Board) -> None:
    """No key: nothing is sent, nothing is lost, one line says why, and a command that would send says
    what is missing."""
    run = world.start("10")
    wait_for("two polls", lambda: len(world.samples()) >= 2)
    assert "DATADOG_API_KEY" in world.espcli("upload_queued_metrics", code=1)
    assert run.stop() == 0
    (told,) = run.events("uploads.off")
    assert "DATADOG_API_KEY" in told["reason"]
    books = world.require_balance()
    assert books["queued"] == books["collected"] > 0


def test_the_bound_drops_the_oldest_and_counts_them(world: World, boards: list[Board]) -> None:
    """Past the bound the oldest samples go, and the books say how many."""
    for name in world.register(*boards[:2]):
        world.espcli("device", name, "report_pins", ",".join(world.device(name)["gpio"]))
        world.espcli("device", name, "interval", "0.1")
    run = world.start("20", ESPNET_MAX_SAMPLES="1000")
    with world.store() as store:
        wait_for("drops", lambda: store.ledger().queue.dropped > 200)
        assert run.stop() == 0
        latest = {view.reading.at for view in store.views() if view.reading}
    books = world.require_balance()
    assert books["queued"] <= 1000
    assert latest <= {batch.at for batch in world.samples()}


def test_init_consumers_reads_from_the_beginning(
    world: World, porch: Board, intake: Intake
) -> None:
    """A sink that is added late gets what was queued before it was known."""
    run = world.start("10")
    wait_for("two polls", lambda: len(world.samples()) >= 2)
    assert run.stop() == 0
    there = to_intake(intake.url)
    assert world.json("init_consumers", **there) == [{"sink": "datadog", "created": True}]
    assert world.json("init_consumers", **there) == [{"sink": "datadog", "created": False}]
    world.espcli("upload_queued_metrics", **there)
    books = world.require_balance()
    assert books["accepted"] == books["collected"] == intake.accepted > 0
    assert KEY not in world.espcli("xinfo")
