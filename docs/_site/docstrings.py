"""Reads docstrings as reStructuredText for what they have of it, and hands them on as Markdown.

A docstring is to read well in a terminal too. So it names a class by a role, begins a formula with two colons, and has
examples without a fence. An extension of griffe, which reads the package's sources for mkdocstrings.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|func|meth):`(~?)([\w.]+)`")
LITERAL = re.compile(r"^(?P<indent> *)(?P<text>.*?) ?::$", re.MULTILINE)
OF_EACH = re.compile(r"^Fused\w+\.")  # a method of one optimizer is that of all
PAGE = re.compile(r"\bdocs/(\w+)\.md\b")
AT_LEAST = re.compile(r"^( +[\w*, ]+: )>", re.MULTILINE)  # which Markdown takes for a quotation
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


def link(role: re.Match[str]) -> str:
    """The name in it, as code that leads to its place on the site: autorefs looks it up from where it stands."""
    shortened, name = role.groups()
    target = OF_EACH.sub("sgdr_fused.optimizers._base.FusedOptimizer.", name)
    return f"[`{name.rpartition('.')[2] if shortened else name}`][{target}]"


def colon(literal: re.Match[str]) -> str:
    return literal["indent"] + (f"{literal['text']}:" if literal["text"] else "")


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None and not obj.is_alias:
            text = AT_LEAST.sub(r"\1\\>", LITERAL.sub(colon, ROLE.sub(link, obj.docstring.value)))
            obj.docstring.value = EXAMPLE.sub("Examples:", PAGE.sub(r"[docs/\1.md](../\1.md)", text))
