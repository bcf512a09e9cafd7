"""The tables of docs/performance.md and figures of the README, made of the rows that results.py reads and writes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from racing import LIMIT, OURS
from results import Row, best_among, ours_among

ALGORITHMS = {"sgd": "SGD", "adam": "Adam"}
WORKLOADS = {
    "mlp": "MLP",
    "500x64": "500 x 64",
    "vit_ti": "ViT-Ti, a rate per layer",
    "resnet50": "ResNet-50",
    "gpt2": "GPT-2 small",
}
# The aims: how many times as long as ours the best of torch's is to take.
TARGETS = {
    "sgd": {"mlp": 5, "500x64": 40, "vit_ti": 1.6, "resnet50": 1.2, "gpt2": 1.1},
    "adam": {"mlp": 6, "500x64": 60, "vit_ti": 1.6, "resnet50": 1.15, "gpt2": 1.05},
    "recipe": {"resnet50": 2.5},
}
LINES = {"tensors": ("tensor", 1.0, "µs"), "groups": ("group", 1.0, "µs"), "elements": ("element", 1e3, "ns")}

Races = dict[tuple[str, str, str], list[Row]]


def table(head: Sequence[str], body: Iterable[Sequence[object]], left: int = 1) -> str:
    """A table in Markdown. The first `left` columns are text, and the others are numbers."""
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in [head, rule, *body])


def duration(microseconds: float | None) -> str:
    if microseconds is None:
        return "-"
    value, unit = (microseconds, "µs") if microseconds < 1000 else (microseconds / 1000, "ms")
    return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"


def number(value: float | None) -> str:
    assert value is not None
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def within(row: Row) -> str:
    return f"{number(row.ratio)} ({number(row.ratio_p10)}-{number(row.ratio_p90)})"


def line(race: list[Row]) -> str:
    """A race as one line for a terminal."""
    ours, best = ours_among(race), best_among(race)
    share = "" if ours.share_of_limit is None else f", {ours.share_of_limit:.0%} of the limit"
    name = f"{ours.question}: {ours.job}, {ours.workload}"
    times = f"{best.implementation} {duration(best.median_us)}, sgdr_fused {duration(ours.median_us)}"
    return f"{name:<32} {times:<50} {within(best)}{share}; {ours.rounds} rounds"


def steps_of(races: Races, schedule: str) -> list[tuple[str, str, list[Row]]]:
    """(algorithm, workload, race) for each step that was timed with that schedule."""
    found = []
    for algorithm in ALGORITHMS:
        for workload in WORKLOADS:
            race = races.get(("step", f"{algorithm}, {schedule}", workload))
            if race is not None:
                found.append((algorithm, workload, race))
    return found


def headline(races: Races) -> str:
    body = []
    entries = [(a, w, f"{ALGORITHMS[a]}, {WORKLOADS[w]}", race) for a, w, race in steps_of(races, "cosine")]
    recipe = races["recipe", "adamw", "resnet50"]
    for key, workload, name, race in [*entries, ("recipe", "resnet50", "recipe, ResNet-50", recipe)]:
        ours, best = ours_among(race), best_among(race)
        form = best.implementation.removeprefix("torch ")
        cells = [name, ours.tensors, f"{ours.parameters:,}", form, duration(best.median_us), duration(ours.median_us)]
        body.append([*cells, within(best), number(TARGETS[key][workload])])
    head = ["", "tensors", "parameters", "torch's best form", "its time", "sgdr_fused", "ratio (80 % within)", "aim"]
    return table(head, body)


def gains(races: Races) -> str:
    """What the README says of the CPU, in three points."""
    ratios = {(a, w): number(best_among(race).ratio) for a, w, race in steps_of(races, "cosine")}
    recipe = races["recipe", "adamw", "resnet50"]
    ours, theirs = ours_among(recipe), best_among(recipe)

    def times(workload: str) -> str:
        return f"{ratios['sgd', workload]} (SGD) and {ratios['adam', workload]} (Adam) times"

    return (
        "- **Small models and many groups, on a CPU.** The best form of torch's optimizer with its scheduler takes "
        f"{times('mlp')} as long as one step here on an MLP, {times('500x64')} on 500 tensors of 64 elements, and "
        f"{times('vit_ti')} on ViT-Ti with a rate for each layer.\n"
        f"- **Large models, on a CPU.** It takes {times('resnet50')} as long on ResNet-50, and {times('gpt2')} on "
        "GPT-2 small, where the memory is the limit.\n"
        "- **One call for five, on a CPU.** Unscaling, clipping, AdamW, the schedule and an average of the weights on "
        f"ResNet-50: torch's five calls take {number(theirs.ratio)} times as long as the one call here, which runs at "
        f"{ours.share_of_limit:.0%} of the memory's speed."
    )


def steps(races: Races, schedule: str) -> str:
    names: list[str] = []
    for _, _, race in steps_of(races, schedule):
        names += [row.implementation for row in race if row.implementation not in names and not row.note]
    body = []
    for algorithm, workload, race in steps_of(races, schedule):
        times = {row.implementation: row for row in race}
        cells = [duration(times[name].median_us) if name in times else "-" for name in names]
        best = names.index(best_among(race).implementation)
        cells[best] = f"**{cells[best]}**"
        body.append((f"{ALGORITHMS[algorithm]}, {WORKLOADS[workload]}", *cells))
    return table(("", *names), body)


def missing(races: Races) -> str:
    """The reasons why something was not measured, each once, with the jobs and workloads that it holds for."""
    reasons: dict[str, list[Row]] = {}
    for race in races.values():
        for row in race:
            if row.note:
                reasons.setdefault(f"{row.implementation}: {row.note}", []).append(row)
    lines = []
    for reason, of_reason in reasons.items():
        jobs = dict.fromkeys(row.job for row in of_reason)
        workloads = dict.fromkeys(WORKLOADS.get(row.workload, row.workload) for row in of_reason)
        lines.append(f"- {reason} ({'; '.join(jobs)}: {'; '.join(workloads)})")
    return "\n".join(lines) or "Nothing."


def limits(races: Races) -> str:
    body = []
    races_and_names = [(f"{ALGORITHMS[a]}, {WORKLOADS[w]}", race) for a, w, race in steps_of(races, "cosine")]
    for name, race in [*races_and_names, ("recipe, ResNet-50", races["recipe", "adamw", "resnet50"])]:
        rows = {row.implementation: row for row in race}
        ours, best, limit = rows[OURS], best_among(race), rows[LIMIT]
        speeds = [f"{row.gb_per_s:.1f}" for row in (limit, ours, best)]
        shares = [f"{row.share_of_limit:.0%}" for row in (ours, best)]
        body.append((name, ours.bytes_per_parameter, duration(limit.median_us), *speeds, *shares))
    head = ("", "bytes a parameter", "the limit", "GB/s of the limit", "GB/s of sgdr_fused", "GB/s of torch's best")
    return table((*head, "share of the limit, sgdr_fused", "torch's best"), body)


def implementations(races: Races, question: str) -> str:
    """A row for each implementation in the races about a question."""
    body = []
    for (asked, job, _), race in races.items():
        for row in race if asked == question else []:
            times = f"{duration(row.p10_us)} - {duration(row.p90_us)}"
            name = f"**{row.implementation}**" if row.best_torch else row.implementation
            body.append((ALGORITHMS.get(job, "AdamW"), name, duration(row.median_us), times, within(row)))
    return table(("", "", "median", "80 % within", "times ours (80 % within)"), body, left=2)


def line_of(races: Races, question: str, algorithm: str, implementation: str) -> list[tuple[int, float]]:
    """(size, microseconds) of each point."""
    points = []
    for (asked, job, size), race in races.items():
        if (asked, job) == (question, algorithm):
            points += [(int(size), row.median_us) for row in race if row.implementation == implementation]
    return [(size, time) for size, time in points if time is not None]


def slope(points: list[tuple[int, float]]) -> float:
    """The microseconds that one more of them costs, by least squares."""
    sizes, times = zip(*points, strict=True)
    return statistics.linear_regression(sizes, times).slope


def slopes(races: Races) -> str:
    names = [row.implementation for key, race in races.items() if key[0] == "tensors" for row in race]
    body = []
    for algorithm in ALGORITHMS:
        for name in dict.fromkeys(names):
            cells = [duration(min(line_of(races, "tensors", algorithm, name))[1])]
            for question, (_, factor, unit) in LINES.items():
                cells.append(f"{factor * slope(line_of(races, question, algorithm, name)):.3g} {unit}")
            body.append((ALGORITHMS[algorithm], name, *cells))
    return table(("", "", "one tensor", *(f"per {one}" for one, _, _ in LINES.values())), body, left=2)


def conditions(stamp: dict[str, str]) -> str:
    return (
        f"Machine: {stamp['processor']}, {stamp['cores']} cores, {stamp['instructions']}, {stamp['system']}; load "
        f"average before: {stamp['load before']}. Versions: {stamp['versions']}. {stamp['threads']} threads. "
        f"{stamp['date']}, commit {stamp['commit']}. Command: `make bench`."
    )
