"""The table of `make bench`, as Markdown: figures, marks, and what each system does for them. Pure."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.peers.espnet import HEADLINE, PACED
from bench.peers.prometheus import PacedPrometheus
from bench.rounds import Result

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
#: What EspNet must reach: at least so many times what others make of a CPU-second.
RATIOS = {"prometheus": 3.5, "collectd": 8.0, "espnet_2021_design": 50.0}
#: Who polls at a pace is compared with EspNet at that pace.
AT_A_PACE = {PacedPrometheus.name, PACED}
POLLS_PER_CPU_S, ROUND_TRIPS, COMMANDS = 20_000, 0.05, 8

COLUMNS: dict[str, Callable[[Result], str]] = {
    "polls per CPU-second": lambda r: _number(r.polls_per_cpu_s, "{:,.0f}"),
    "polls per second": lambda r: _number(r.polls_per_s, "{:,.0f}"),
    "memory": lambda r: _number(r.rss_kb and r.rss_kb / 1024, "{:.0f} MB"),
    "Redis CPU, µs a poll": lambda r: _number(r.redis_cpu_us_per_poll, "{:.1f}"),
    "Redis round trips a poll": lambda r: _number(r.redis_round_trips_per_poll, "{:.3g}"),
    "Redis commands a poll": lambda r: _number(r.redis_commands_per_poll, "{:.1f}"),
    "Redis bytes a poll": lambda r: _number(r.redis_bytes_per_poll, "{:,.0f}"),
}


def _number(value: float | None, how: str) -> str:
    return "–" if value is None else how.format(value)


def markdown(results: Mapping[str, Result]) -> str:
    """The table, who was skipped, the marks, and what each system does."""
    measured = [result for result in results.values() if result.skipped is None]
    ours = results.get(HEADLINE)
    head = ["", "polls per CPU-second", "EspNet is", *list(COLUMNS)[1:]]
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(['---', *['---:'] * (len(head) - 1)])}|"]
    for result in measured:
        same = results.get(PACED) if result.name in AT_A_PACE else ours
        base = same.polls_per_cpu_s if same else None
        first, *rest = (show(result) for show in COLUMNS.values())
        times = base / result.polls_per_cpu_s if base and result.polls_per_cpu_s else None
        how_often = _number(times, "{:.0f} ×" if times and times >= 10 else "{:.2g} ×")
        title = f"**{result.title}**" if result is ours else result.title
        lines.append(f"| {' | '.join([title, first, how_often, *rest])} |")
    if measured:
        it = measured[0]
        lines += [
            "",
            f"Medians of {it.rounds} interleaved rounds over {it.boards} stand-in boards with 34 pins, each "
            f"a window of a warm process, on {it.measured_on}. CPU and memory are those of a system's whole "
            "process tree; Redis and the boards are processes of their own and stand beside it.",
        ]
    lines += [
        "",
        *(
            f"- {result.title} was skipped: {result.skipped}."
            for result in results.values()
            if result.skipped
        ),
    ]
    lines += _marks(results)
    lines += ["", "What each of them does:", ""]
    for result in results.values():
        version = f" ({result.version})" if result.version else ""
        lines.append(f"- **{result.title}**{version}: {result.does}.")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _marks(results: Mapping[str, Result]) -> list[str]:
    """What EspNet is to reach beside what it reached."""
    ours = results.get(HEADLINE)
    if ours is None or ours.polls_per_cpu_s is None:
        return []
    rows = [
        (
            "polls per CPU-second",
            f"≥ {POLLS_PER_CPU_S:,}",
            ours.polls_per_cpu_s,
            POLLS_PER_CPU_S,
            "{:,.0f}",
        ),
    ]
    paced, at_a_pace = results.get(PACED), results.get(PacedPrometheus.name)
    lines = []
    for name, least in RATIOS.items():
        other = results.get(name)
        if other is not None and other.polls_per_cpu_s:
            times = ours.polls_per_cpu_s / other.polls_per_cpu_s
            if name == "prometheus" and paced and at_a_pace and at_a_pace.polls_per_cpu_s:
                # The mark is for the same number of polls.
                lines.append(f"| times {other.title}, as fast as each can | – | {times:.1f} | – |")
                continue
            rows.append((f"times {other.title}", f"≥ {least:g}", times, least, "{:.1f}"))
    if paced and at_a_pace and paced.polls_per_cpu_s and at_a_pace.polls_per_cpu_s:
        times, least = paced.polls_per_cpu_s / at_a_pace.polls_per_cpu_s, RATIOS["prometheus"]
        what = "times Prometheus, both at 1,000 polls a second"
        rows.insert(1, (what, f"≥ {least:g}", times, least, "{:.1f}"))
    lines[:0] = [
        f"| {what} | {mark} | {how.format(value)} | {'yes' if value >= least else '**no**'} |"
        for what, mark, value, least, how in rows
    ]
    for what, most, found, how in (
        ("Redis round trips a poll", ROUND_TRIPS, ours.redis_round_trips_per_poll, "{:.3g}"),
        ("Redis commands a poll", COMMANDS, ours.redis_commands_per_poll, "{:.1f}"),
    ):
        if found is not None:
            met = "yes" if found <= most else "**no**"
            lines.append(f"| {what} | ≤ {most:g} | {how.format(found)} | {met} |")
    head = [f"| {ours.title} | mark | measured | reached |", "|---|---:|---:|---|"]
    return ["", *head, *lines]


def write(name: str, text: str, page: Path = PAGE) -> None:
    """Replaces what stands between the page's markers of this name. Raises `ValueError` where it has none."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"{page} has no lines {begin.strip()} and {end.strip()}.")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
