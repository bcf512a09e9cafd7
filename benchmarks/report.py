"""Writes docs/performance.md, and the README's figures and picture, from what `make bench` has kept in out/bench.csv.

python benchmarks/report.py    writes them, the chart and docs/performance.csv anew, without timing anything
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tables
from results import ROOT, by_race, from_csv

KEPT = ROOT / "out" / "bench.csv"
PAGES = ("README.md", "docs/performance.md")


def put(page: str, name: str, text: str) -> str:
    """Puts `text` into the page wherever it has a place for it: between <!-- name --> and <!-- end -->."""
    pattern = f"(<!-- {name} -->\n).*?(<!-- end -->)"
    return re.sub(pattern, lambda match: f"{match[1]}{text}\n{match[2]}", page, flags=re.DOTALL)


def write(text: str, to: Path = ROOT) -> None:
    """Writes all that is made from the text of the CSV file, into the project or a folder in its place."""
    import chart  # here, because they need matplotlib, which nothing else here does
    import overview

    rows, stamp = from_csv(text)
    races = by_race(rows)
    parts = {
        "bench: gains": tables.gains(races),
        "bench: targets": tables.headline(races),
        "bench: steps": tables.steps(races, "cosine"),
        "bench: one-cycle": tables.steps(races, "one-cycle"),
        "bench: missing": tables.missing(races),
        "bench: limits": tables.limits(races),
        "bench: recipe": tables.implementations(races, "recipe"),
        "bench: training": tables.implementations(races, "training"),
        "bench: in backward": tables.implementations(races, "in backward"),
        "bench: slopes": tables.slopes(races),
        "bench: conditions": tables.conditions(stamp),
    }
    (to / "docs").mkdir(exist_ok=True)
    pages: dict[str, Any] = {name: (ROOT / name).read_text() for name in PAGES}
    for name, part in parts.items():
        assert any(f"<!-- {name} -->" in page for page in pages.values()), name
        pages = {path: put(page, name, part) for path, page in pages.items()}
    for path, page in pages.items():
        (to / path).write_text(page)
    (to / "docs" / "performance.csv").write_text(text)
    chart.draw(races, to / "docs" / "performance.png")
    overview.draw(races, ROOT / "docs" / "digits.csv", to / "docs" / "overview.png")


if __name__ == "__main__":
    write(KEPT.read_text())
