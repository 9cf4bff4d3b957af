"""The picture of `make bench`: bars from zero, one a system, and the rounds behind each median."""

from collections.abc import Mapping
from pathlib import Path

from bench.rounds import Result

PICTURE = Path(__file__).parent.parent / "docs" / "bench.png"
OURS, OTHERS, DARK = "#1f6f8b", "#9aa5ad", "#263238"


def draw(results: Mapping[str, Result], path: Path = PICTURE) -> None:
    """Writes the PNG. Who was skipped is not in it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shown = [result for result in results.values() if result.polls_per_cpu_s]
    figure, axes = pyplot.subplots(figsize=(9, 0.55 * len(shown) + 1.9), layout="constrained")
    most = max(max(result.polls_per_cpu_s_each_round) for result in shown)
    for row, result in enumerate(shown):
        polls = result.polls_per_cpu_s or 0.0
        color = OURS if result.name.startswith("espnet") and "2021" not in result.name else OTHERS
        axes.barh(row, polls, height=0.62, color=color)
        if result.redis_cpu_us_per_poll:
            # The same when Redis's CPU is counted as the system's.
            both = 1 / (1 / polls + result.redis_cpu_us_per_poll / 1e6)
            axes.barh(
                row, both, height=0.62, fill=False, edgecolor="white", hatch="////", linewidth=0
            )
        rounds = result.polls_per_cpu_s_each_round
        axes.plot(rounds, [row] * len(rounds), "o", color=DARK, markersize=3, alpha=0.7)
        axes.text(
            max([polls, *rounds]) + most * 0.012, row, f"{polls:,.0f}", va="center", color=DARK
        )
    axes.set_yticks(range(len(shown)), [result.title for result in shown])
    axes.invert_yaxis()
    axes.set_xlim(0, most * 1.1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("polls per CPU-second of the collecting processes (more is better)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.set_title(f"{shown[0].boards} boards, one run, one machine", loc="left", fontsize=11)
    axes.legend(
        handles=[
            Patch(facecolor=OURS, label="EspNet"),
            Patch(facecolor=OTHERS, label="others"),
            Patch(
                facecolor=OTHERS,
                edgecolor="white",
                hatch="////",
                label="with Redis's CPU counted in",
            ),
            Line2D([], [], marker="o", linestyle="", color=DARK, markersize=3, label="each round"),
        ],
        loc="lower right",
        frameon=False,
        fontsize=9,
    )
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
