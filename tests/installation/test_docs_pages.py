"""The pages of the documentation: what leads to them, what they lead to, and which rows and pictures they have."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
from installs import ROOT

import sgdr_fused
from sgdr_fused import schedules

pytestmark = pytest.mark.once

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
NAV = re.compile(r": ([\w/]+\.md)$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
BESIDE = {"contributing.md", "changelog.md"}  # which docs/_site/pages.py takes from beside docs/


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text())


def anchors(page: Path) -> Iterator[str]:
    """Those of its headings, as GitHub and mkdocs make them."""
    for heading in HEADING.findall(prose(page)):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        yield re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip())


def wrong_links(page: Path) -> list[str]:
    wrong = []
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if re.match(r"https?:", path):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    assert wrong_links(page) == []


def test_wrong_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title, here\n[a](#a-title-here) [b](#b) [c](c.md)\n```\n[d](d.md)\n```\n[e](https://e.org)\n")
    assert wrong_links(page) == ["#b", "c.md"]


def test_every_page_is_in_the_navigation_once() -> None:
    entries = NAV.findall((ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1])
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")]
    assert sorted(entries) == sorted([*pages, *BESIDE])


def test_pages_named_in_the_sources_exist() -> None:
    for folder in ("sgdr_fused", "csrc", "tests", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in (".py", ".h", ".cpp", ".cu", ".cuh"):
                for page in re.findall(r"\bdocs/[\w/]+\.md\b", path.read_text()):
                    assert (ROOT / page).is_file(), f"{path} names {page}"


def test_every_optimizer_has_a_row() -> None:
    rows = re.findall(r"^\| `(Fused\w+)` \|", (DOCS / "optimizers.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(each for each in sgdr_fused.__all__ if each.startswith("Fused"))


def test_every_schedule_has_a_row_and_a_picture() -> None:
    """The row of a schedule that is made by an operator names that."""
    example = runpy.run_path(str(ROOT / "examples" / "schedule_gallery.py"))
    names = [each for each in schedules.__all__ if each not in ("Schedule", "from_torch")]
    assert sorted(example["GALLERY"]) == sorted(names)
    page = (DOCS / "schedules.md").read_text()
    for each, expressions in example["GALLERY"].items():
        assert each in ("Product", "Shifted") or re.search(rf"^\|.*`{each}\(.*\|$", page, re.MULTILINE), each
        assert example["section"](each, expressions) in page
        assert (DOCS / "schedules" / example["file_of"](each)).is_file()


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
