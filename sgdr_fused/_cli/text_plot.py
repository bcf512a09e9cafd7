"""Draws a curve with characters."""

from __future__ import annotations

from torch import Tensor

HEIGHT = 14  # rows of the curve
NARROWEST = 30  # columns of a picture, labels included, whatever the terminal says


def draw(values: Tensor, width: int) -> str:
    """The values at steps 0, 1, ... as lines of ASCII.

    Each column shows all values of its steps: a bar from the smallest to the largest. With fewer steps than columns,
    each step has several columns.

    Args:
        values: finite, of shape (n,), n >= 1.
        width: characters of the longest line.

    Example:
        >>> import torch
        >>> picture = draw(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), width=30)
        >>> picture.splitlines()[:: HEIGHT - 1]
        ['   1 |                ********', '   0 |********']
    """
    n = len(values)
    low, high = float(values.min()), float(values.max())
    labels = {0: f"{high:.4g}", HEIGHT - 1: f"{low:.4g}"} if high > low else {HEIGHT // 2: f"{high:.4g}"}
    margin = max(4, *map(len, labels.values()))
    columns = max(width, NARROWEST) - margin - 2
    rows = [[" "] * columns for _ in range(HEIGHT)]
    for column in range(columns):
        first = column * n // columns
        part = values[first : max(first + 1, (column + 1) * n // columns)]
        top, bottom = (_row(float(each), low, high) for each in (part.max(), part.min()))
        for row in range(top, bottom + 1):
            rows[row][column] = "*"
    lines = [f"{labels.get(i, ''):>{margin}} |{''.join(row)}" for i, row in enumerate(rows)]
    last = "" if n == 1 else str(n - 1)
    lines.append(f"{'':>{margin}} +{'-' * columns}")
    lines.append(f"{'step':>{margin}}  0{last:>{columns - 1}}")
    return "\n".join(line.rstrip() for line in lines)


def _row(value: float, low: float, high: float) -> int:
    """The row of a value: that of the largest is 0. Half of the range is finite, though the range may not be."""
    if high == low:
        return HEIGHT // 2
    half = high / 2 - low / 2
    return round((high / 2 - value / 2) / half * (HEIGHT - 1))
