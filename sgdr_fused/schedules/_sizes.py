"""The size of a schedule that is made of others, which is known before anything is done with it.

The same schedule may stand in another many times, and again in a third: a few lines of Python or of a file describe
more segments than there is memory. So each is measured when it is made, from what its parts have measured; what is
too large is refused there. What all else does with a schedule (evaluate, hash, compare, print, pickle) is bounded by
these numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .. import _checks

MAX_NESTING = 64  # pickle and copies go some ten Python calls deeper with each, and 1000 are allowed
MAX_SCHEDULES = 16_384
MAX_SEGMENTS = 65_536
MAX_ENTRIES = 2**24  # 128 MiB on the device


class Size(NamedTuple):
    """How large a schedule is. All numbers are upper bounds."""

    nesting: int
    schedules: int  # itself and those in it, as often as they stand there
    begins: int  # steps at which segments begin
    segments: int
    together: int  # segments that hold at the same step
    entries: int  # of all segments' tables
    entries_together: int
    shift: int  # of a segment's steps, forward


def of_segments(entries: Sequence[int], shifts: Sequence[int]) -> Size:
    """The size of a schedule that is made of no others; its segments hold one at a time.

    Args:
        entries: of each segment's table.
        shifts: of each segment's steps, forward where they are > 0.
    """
    return Size(1, 1, len(entries), len(entries), 1, sum(entries), max(entries), max(0, *shifts))


def shifted(size: Size, steps: int) -> Size:
    """The size of a schedule that begins so many steps later."""
    return size._replace(nesting=size.nesting + 1, schedules=size.schedules + 1, shift=size.shift + steps)


def in_turn(sizes: Sequence[Size]) -> Size:
    """The size of schedules one after the other."""
    return Size(
        1 + max(size.nesting for size in sizes),
        1 + sum(size.schedules for size in sizes),
        sum(size.begins for size in sizes),
        sum(size.segments for size in sizes),
        max(size.together for size in sizes),
        sum(size.entries for size in sizes),
        max(size.entries_together for size in sizes),
        max(size.shift for size in sizes),
    )


def product(sizes: Sequence[Size]) -> Size:
    """The size of schedules at the same time: where one's segments begin, those of the others begin once more."""
    begins = 1 + sum(size.begins - 1 for size in sizes)
    return Size(
        1 + max(size.nesting for size in sizes),
        1 + sum(size.schedules for size in sizes),
        begins,
        sum(size.segments + (begins - size.begins) * size.together for size in sizes),
        sum(size.together for size in sizes),
        sum(size.entries + (begins - size.begins) * size.entries_together for size in sizes),
        sum(size.entries_together for size in sizes),
        max(size.shift for size in sizes),
    )


def check(name: str, size: Size) -> None:
    """Raises for what is too large; `name` is the argument that holds the parts."""
    for number, most, what in (
        (size.nesting, MAX_NESTING, "levels of schedules in schedules"),
        (size.schedules, MAX_SCHEDULES, "schedules, each counted as often as it stands there"),
        (size.segments, MAX_SEGMENTS, "segments"),
        (size.entries, MAX_ENTRIES, "entries of tables"),
    ):
        if number > most:
            raise ValueError(f"{name} must not make more than {most:,} {what}, got {number:,}")
    if size.shift > _checks.MAX_STEP:
        raise ValueError(f"steps must not add up to more than 2**61 where schedules are shifted, got {size.shift!r}")
