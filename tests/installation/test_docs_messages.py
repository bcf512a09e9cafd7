"""Each message that docs/faq.md quotes is in the sources, and each that does not explain itself is on the page.

A quotation has … where something is put in.
"""

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


def text_of(node: ast.expr) -> str:
    """The text of a literal, "" for anything else."""
    return next(of_python(ast.unparse(node)), "") if isinstance(node, (ast.Constant, ast.JoinedStr)) else ""


def raised_or_warned(source: str) -> Iterator[str]:
    """What a module says to a user: the texts in `raise Error(text)` and in `warn(text)`."""
    for node in ast.walk(ast.parse(source)):
        call = node.exc if isinstance(node, ast.Raise) else node
        if isinstance(call, ast.Call) and call.args:
            name = ast.unparse(call.func)
            if isinstance(node, ast.Raise) or name.split(".")[-1] in ("warn", "_warn_once"):
                # Why a scheduler of torch's becomes a Table ends a warning that is quoted.
                yield "" if name == "NoClosedFormError" else text_of(call.args[0])


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


def test_messages_to_users_are_found() -> None:
    source = 'raise ValueError(f"a {x}")\nwarn("b " f"{y} c")\nraise error\nprint("d")\n'
    assert list(raised_or_warned(source)) == ["a …", "b … c"]


def test_every_message_that_does_not_explain_itself_is_on_the_page() -> None:
    """ "… must be …, got …" says what to do. Any other message needs an entry with its cause and its remedy."""
    missing = []
    for folder in ("", "_engine", "_native", "optimizers", "schedules", "training"):
        for path in sorted((ROOT / "sgdr_fused" / folder).glob("*.py")):
            for text in map(plain, raised_or_warned(path.read_text())):
                quoted = any(message.rstrip("…") in text for message in MESSAGES if message != "… must be …, got …")
                if text.strip("…") and " must " not in text and not quoted:
                    missing.append(f"{path.relative_to(ROOT)}: {text}")
    assert not missing, "docs/faq.md has no entry for:\n" + "\n".join(missing)
