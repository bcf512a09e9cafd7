"""Each mutation of mutate_cuda.py still finds the code that it breaks, and the tests that have to notice."""

from __future__ import annotations

import dataclasses
from collections import Counter

import mutate_cuda
import pytest
from mutate_cuda import MUTATIONS, Mutation

pytestmark = pytest.mark.once


@pytest.mark.parametrize("mutation", [pytest.param(mutation, id=mutation.name) for mutation in MUTATIONS])
def test_finds_its_place_and_its_tests(mutation: Mutation) -> None:
    assert mutate_cuda.misfit(mutation) is None


def test_names_are_different() -> None:
    assert [name for name, count in Counter(mutation.name for mutation in MUTATIONS).items() if count > 1] == []


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"old": "no such text"}, "in 0 places, not in 1"),
        ({"path": "csrc/no_such_file.h"}, "in 0 places, not in 1"),
        ({"places": 2}, "in 1 places, not in 2"),
        ({"new": MUTATIONS[0].old}, "changes nothing"),
        ({"tests": "no_such_file"}, "0 files named test_no_such_file.py"),
    ],
)
def test_says_what_it_no_longer_finds(changed: dict[str, object], says: str) -> None:
    assert says in str(mutate_cuda.misfit(dataclasses.replace(MUTATIONS[0], **changed)))  # type: ignore[arg-type]
