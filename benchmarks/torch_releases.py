"""The releases of torch that the package supports, without importing torch: for make, and for torch_matrix.py.

python benchmarks/torch_releases.py                prints the newest release of every minor version from 2.4
python benchmarks/torch_releases.py 2.4.1 newest   prints these, with the newest one's number
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

OLDEST = (2, 4)


def releases(listed: str) -> list[str]:
    """The newest release of each minor version from OLDEST, in what `pip index versions` prints, oldest first."""
    available = re.search(r"Available versions: (.*)", listed)
    assert available, listed
    newest: dict[tuple[int, ...], tuple[int, ...]] = {}
    for text in available[1].split(","):
        if (match := re.fullmatch(r"\s*(\d+)\.(\d+)\.(\d+)(\+\S*)?", text)) is not None:
            version = tuple(int(part) for part in match.groups()[:3])
            newest[version[:2]] = max(version, newest.get(version[:2], version))
    return [".".join(map(str, newest[minor])) for minor in sorted(newest) if minor >= OLDEST]


def available() -> list[str]:
    command = [sys.executable, "-m", "pip", "index", "versions", "torch", "--disable-pip-version-check"]
    return releases(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def chosen(named: list[str], available: Callable[[], list[str]] = available) -> list[str]:
    """All releases that there are, or the named ones; the newest is named by that word."""
    if named and "newest" not in named:
        return named
    known = available()
    return [known[-1] if release == "newest" else release for release in named] if named else known


if __name__ == "__main__":
    print(*chosen(sys.argv[1:]))
