"""Whether tensors share elements, against all their addresses."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sgdr_fused._engine.overlap import overlaps_itself, shares_elements

pytestmark = pytest.mark.once

BASE = torch.zeros(4096, dtype=torch.uint8)


def view(dtype: torch.dtype, shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Tensor:
    return BASE.view(dtype).as_strided(shape, strides, offset)


@st.composite
def views(draw: st.DrawFn) -> Tensor:
    dims = draw(st.integers(0, 4))
    shape = tuple(draw(st.integers(0, 4)) for _ in range(dims))
    strides = tuple(draw(st.integers(0, 24)) for _ in range(dims))
    return view(
        draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16])), shape, strides, draw(st.integers(0, 60))
    )


def starts(tensor: Tensor) -> list[int]:
    size = tensor.element_size()
    indices = itertools.product(*(range(n) for n in tensor.shape))
    return [
        tensor.data_ptr() + size * sum(i * s for i, s in zip(index, tensor.stride(), strict=True)) for index in indices
    ]


def all_bytes(tensor: Tensor) -> set[int]:
    return {start + k for start in starts(tensor) for k in range(tensor.element_size())}


@settings(max_examples=500, deadline=None)
@given(views(), views())
def test_shares_elements(a: Tensor, b: Tensor) -> None:
    assert shares_elements(a, b) == shares_elements(b, a) == bool(all_bytes(a) & all_bytes(b))


@settings(max_examples=500, deadline=None)
@given(views())
def test_overlaps_itself(tensor: Tensor) -> None:
    assert overlaps_itself(tensor) == (len(set(starts(tensor))) < tensor.numel())


def test_large_ones() -> None:
    """The answer is exact and takes no time, where looking at each address would take too long."""
    big = torch.empty(1, dtype=torch.float32).expand(10**9)
    memory = torch.empty(2 * 10**6)
    even, odd = memory[::2], memory[1::2]
    assert not shares_elements(even, odd)
    assert shares_elements(even, memory[10**6 :])
    assert shares_elements(even, even[7:9])
    left, right = memory.view(1000, 2000)[:, :999], memory.view(1000, 2000)[:, 999:]
    assert not shares_elements(left, right)
    assert not shares_elements(left.t(), right)
    assert shares_elements(left, memory.view(1000, 2000)[:, 998:])
    assert overlaps_itself(big)
    assert not overlaps_itself(left.t())


def test_meta_tensors_share_nothing() -> None:
    a = torch.empty(3, device="meta")
    assert not shares_elements(a, a)
