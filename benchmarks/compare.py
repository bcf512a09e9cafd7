"""Says which steps have become slower from one run of `make bench` to another.

    python benchmarks/compare.py OLD.csv NEW.csv

It compares the ratio of the best of torch's times to ours in the same rounds, because that ratio is the same on a
faster machine. A step is slower if the difference is beyond the spread: the median of each run is outside the middle
80 % of the other. The exit status is 1 if any step is slower.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from results import Row, best_among, by_race, from_csv
from tables import within


def ratios(path: Path) -> dict[tuple[str, str, str], Row]:
    rows, _ = from_csv(path.read_text())
    return {key: best_among(race) for key, race in by_race(rows).items()}


def verdict(old: Row, new: Row) -> str:
    """ "slower", "faster" or "" from old to new."""
    assert old.ratio and old.ratio_p10 and old.ratio_p90
    assert new.ratio and new.ratio_p10 and new.ratio_p90
    if new.ratio < old.ratio_p10 and old.ratio > new.ratio_p90:
        return "slower"
    if new.ratio > old.ratio_p90 and old.ratio < new.ratio_p10:
        return "faster"
    return ""


def compare(old_file: Path, new_file: Path) -> int:
    """Prints a line for each step, and returns how many are slower."""
    old, new = ratios(old_file), ratios(new_file)
    layout = "{:<34}{:>24}{:>24}  {}"
    print(layout.format("torch's best / sgdr_fused", "old", "new", "").rstrip())
    slower = 0
    for key in [*old, *(key for key in new if key not in old)]:
        name = f"{key[0]}: {key[1]}, {key[2]}"
        if key in old and key in new:
            found = verdict(old[key], new[key])
            slower += found == "slower"
            print(layout.format(name, within(old[key]), within(new[key]), found).rstrip())
        else:
            print(f"{name:<34}only in {'the old' if key in old else 'the new'} file")
    print(f"{slower} slower beyond the spread")
    return slower


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    arguments = parser.parse_args()
    raise SystemExit(1 if compare(arguments.old, arguments.new) else 0)


if __name__ == "__main__":
    main()
