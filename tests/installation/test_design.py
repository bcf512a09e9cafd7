"""The list of files in docs/design.md is that of the tree, in both directions."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from installs import ROOT

pytestmark = pytest.mark.once

LISTED = ("benchmarks", "csrc", "sgdr_fused", "tests")  # folders of which every file has to be in the list
# Every algorithm has a file of its name with its declaration, and one in each folder where a line says so. AdamW and
# the classical momentum are declared too, but are forms of Adam and SGD.
DECLARED = {path.stem for path in (ROOT / "tests" / "algorithms").glob("[a-z]*.py")}
ALGORITHMS = sorted(DECLARED - {"adamw", "classical"})
MADE = re.compile(r"__pycache__|_C\..*|\..*|.*\.pyc")  # folders and files that no commit has


def entries(page: str) -> dict[str, list[str]]:
    """The folders of the list, each with the paths of the entries under it.

    A folder's line begins with the folder, a line under it with two spaces. Names are separated by commas, and two
    spaces separate them from what is said of them. A name with ``<algorithm>`` in it is one for each algorithm.
    """
    listing = page.split("\n## Layers\n")[1].split("\n```\n")[1]
    found: dict[str, list[str]] = {}
    for line in listing.splitlines():
        names = re.split(r"\s{2,}", line.strip())[0].split(", ")
        if not line.startswith(" "):
            (folder,) = names
            assert folder.endswith("/"), f"{folder} is no folder: it has to end with /"
            assert folder not in found, f"{folder} is listed twice"
            found[folder] = []
        else:
            for name in names:
                each = ALGORITHMS if "<algorithm>" in name else [""]
                found[folder] += [folder + name.replace("<algorithm>", algorithm) for algorithm in each]
    return found


def problems(listed: dict[str, list[str]], files: set[str]) -> list[str]:
    """What is wrong with the list, a sentence each."""
    wrong = []
    counts = Counter(path for paths in listed.values() for path in paths)
    for path, count in counts.items():
        if path not in files:
            wrong.append(f"{path} is listed, but there is no such file")
        if count > 1:
            wrong.append(f"{path} is listed {count} times")
    whole = tuple(folder for folder, paths in listed.items() if not paths)
    for folder in listed:
        if not any(path.startswith(folder) for path in files):
            wrong.append(f"{folder} is listed, but there is no such folder")
    for path in sorted(files - counts.keys()):
        if not path.startswith(whole):
            wrong.append(f"{path} is not listed: it needs a line under {path.rpartition('/')[0]}/")
    return wrong


def tree(root: Path) -> set[str]:
    """The files of the listed folders, without what is built or cached there."""
    paths = [path.relative_to(root) for folder in LISTED for path in (root / folder).rglob("*") if path.is_file()]
    return {path.as_posix() for path in paths if not any(MADE.fullmatch(part) for part in path.parts)}


def test_problems_are_found() -> None:
    listing = "a/\n  b.py, c.py   both\n  d.py   alone\ne/   all in it\nf/   all in it"
    listed = entries(f"\n## Layers\n\n```\n{listing}\n```\n\n```sh\nls\n```\n")
    assert listed == {"a/": ["a/b.py", "a/c.py", "a/d.py"], "e/": [], "f/": []}
    assert problems(listed, {"a/b.py", "a/c.py", "a/d.py", "e/g/h.py", "f/i.py"}) == []
    assert problems(listed, {"a/b.py", "a/c.py", "a/x.py", "e/g.py"}) == [
        "a/d.py is listed, but there is no such file",
        "f/ is listed, but there is no such folder",
        "a/x.py is not listed: it needs a line under a/",
    ]
    assert problems({"a/": ["a/b.py", "a/b.py"]}, {"a/b.py"}) == ["a/b.py is listed 2 times"]
    assert {"a/adam.h", "a/sgd.h"} <= set(entries("\n## Layers\n\n```\na/\n  <algorithm>.h  rules\n```\n")["a/"])


def test_the_list_is_that_of_the_tree() -> None:
    found = problems(entries((ROOT / "docs" / "design.md").read_text()), tree(ROOT))
    assert not found, "docs/design.md, section Layers:\n" + "\n".join(found)
