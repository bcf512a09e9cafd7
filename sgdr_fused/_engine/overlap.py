"""Whether two tensors have an element in common, exactly, whatever their strides."""

from __future__ import annotations

import math

from torch import Tensor

# At most this many sums are looked at. Tensors that are not decided by then count as sharing memory.
_MOST_SUMS = 20_000


def has_elements(tensor: Tensor) -> bool:
    """Whether the tensor has memory that it could share. On the device meta there is none."""
    return tensor.numel() > 0 and tensor.device.type != "meta"


def span_of(tensor: Tensor) -> tuple[int, int]:
    """The address of the tensor's first byte, and that behind its last one."""
    begin = tensor.data_ptr()
    return begin, begin + _extent(_bytes_of(tensor)) + 1


def shares_elements(a: Tensor, b: Tensor) -> bool:
    """Whether a byte of memory belongs to an element of both."""
    if not has_elements(a) or not has_elements(b) or a.device != b.device:
        return False
    dims, other_dims = _bytes_of(a), _bytes_of(b)
    # a's address + x is b's + y, where x and y are sums of multiples of strides. With b's indices counted from
    # their ends, that is one sum of both.
    target = b.data_ptr() + _extent(other_dims) - a.data_ptr()
    return _is_sum(target, [*dims, *other_dims])


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether two indices of the tensor mean one element."""
    dims = sorted((stride, size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size != 1)
    if tensor.numel() == 0:
        return False
    if all(stride > _extent(dims[:k]) for k, (stride, _) in enumerate(dims)):
        return False  # each dimension steps over all that the smaller ones reach
    # Two indices mean one element where the differences between them, which are not all 0, add up to nothing. Say
    # that of dimension k is positive; those of the others are counted from their least.
    for k, (stride, most) in enumerate(dims):
        others = [(other, 2 * count) for other, count in (*dims[:k], *dims[k + 1 :])]
        if _is_sum(_extent(others) // 2 - stride, [*others, (stride, most - 1)]):
            return True
    return False


def _bytes_of(tensor: Tensor) -> list[tuple[int, int]]:
    """(stride, greatest index) of each dimension in bytes, and one more for the bytes of an element."""
    size = tensor.element_size()
    return [*((stride * size, n - 1) for stride, n in zip(tensor.stride(), tensor.shape, strict=True)), (1, size - 1)]


def _extent(dims: list[tuple[int, int]]) -> int:
    return sum(stride * count for stride, count in dims)


def _merged(dims: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Merges strides whose sums stay the same: a stride that goes on where the one before ends is merged with it."""
    merged: list[tuple[int, int]] = []
    for stride, count in sorted(dims):
        if stride == 0 or count == 0:
            continue
        if merged and stride % merged[-1][0] == 0 and stride <= merged[-1][0] * (merged[-1][1] + 1):
            last, last_count = merged[-1]
            merged[-1] = last, last_count + count * (stride // last)
        else:
            merged.append((stride, count))
    return merged


def _is_sum(target: int, dims: list[tuple[int, int]]) -> bool:
    """Whether the number is a sum of multiples of the strides, each from 0 to its count times."""
    merged = _merged(dims)
    extents = [_extent(merged[:k]) for k in range(len(merged) + 1)]
    divisors = [math.gcd(*(stride for stride, _ in merged[:k])) for k in range(len(merged) + 1)]
    open_sums = [(target, len(merged))]  # what is left, and for how many of the strides, of which the largest is next
    seen = set(open_sums)
    while open_sums:
        left, k = open_sums.pop()
        if left == 0:
            return True
        if left < 0 or left > extents[k] or left % divisors[k] != 0:  # a divisor of 0 goes with an extent of 0
            continue
        stride, count = merged[k - 1]
        fewest = max(0, -((extents[k - 1] - left) // stride))
        for times in range(fewest, min(count, left // stride) + 1):
            following = left - times * stride, k - 1
            if following not in seen:
                seen.add(following)
                open_sums.append(following)
            if len(seen) > _MOST_SUMS:
                return True
    return False
