"""Each message that docs/faq.md quotes stands in the package's sources, with … where something is put in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from installs import ROOT

pytestmark = pytest.mark.once

BLOCK = re.compile(r"^```text\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
# Neighbouring literals of C++ are one.
LITERALS = re.compile(r'"(?:[^"\\\n]|\\.)*"(?:\s*"(?:[^"\\\n]|\\.)*")*')


def of_python(source: str) -> Iterator[str]:
    """The texts in a module, as in f-strings with … for each value."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)


def of_cpp(source: str) -> Iterator[str]:
    for match in LITERALS.finditer(source):
        yield re.sub(r'"\s*"', "", match[0])[1:-1]


def plain(text: str) -> str:
    """Without line breaks, and with one … for several."""
    return re.sub("…+", "…", " ".join(text.split()))


@pytest.fixture(scope="module")
def texts() -> str:
    found = [text for path in (ROOT / "sgdr_fused").rglob("*.py") for text in of_python(path.read_text())]
    found += [text for path in (ROOT / "csrc").rglob("*.cpp") for text in of_cpp(path.read_text())]
    return "\n".join(plain(text) for text in found)


def test_texts_are_found() -> None:
    python = 'raise ValueError(f"{name} must be {x!r}, "\n "got " f"{y}")\n'
    assert "… must be …, got …" in list(of_python(python))
    assert list(of_cpp('CHECK(a, "one "\n  "two", b, "three");')) == ["one two", "three"]


MESSAGES = [plain(message) for message in BLOCK.findall((ROOT / "docs" / "faq.md").read_text())]


def test_messages_are_quoted_once() -> None:
    assert len(MESSAGES) > 60
    assert len(set(MESSAGES)) == len(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_quoted_message_is_in_the_sources(message: str, texts: str) -> None:
    assert message.rstrip("…") in texts
