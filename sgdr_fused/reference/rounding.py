"""Storage in 16 bits: the remainders that it leaves out, and stochastic rounding."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def join(param: Tensor, remainder: Tensor) -> Tensor:
    """Puts together the float32 numbers that :func:`split` took apart.

    Args:
        param: bfloat16 or float16, any shape.
        remainder: int16, same shape.

    Example:
        >>> x = torch.tensor([0.1, -3.0000002, 65000.0])
        >>> all(torch.equal(join(*split(x, dtype)), x) for dtype in (torch.bfloat16, torch.float16))
        True
    """
    if param.dtype == torch.float16:
        whole = param.float() + torch.ldexp(remainder.float(), _exponent(param) - 24)
        return torch.where(remainder == 0, param.float(), whole)  # -0 + 0 is 0
    bits, difference = param.view(torch.int16).int(), remainder.int()
    magnitude = bits & 0x7FFF
    stray = ((magnitude == 0) & (difference < 0)) | ((magnitude == 0x7F80) & (difference > 0))
    return ((bits << 16) + torch.where(stray, 0, difference)).view(torch.float32)


def split(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Splits float32 numbers into the nearest numbers of a 16-bit type and the remainders that these leave out.

    ``bfloat16`` is the upper half of a float32: the remainder is the difference of the two as integers, where halves
    are rounded away from zero. ``float16`` is not: there it is the difference in units of ``2**(e - 24)``, ``e``
    the parameter's exponent and at least -14. So the two together are exact, but for float16 below ``2**-38`` and
    above its largest number.

    Args:
        x: float32, any shape.
        dtype: bfloat16 or float16.

    Returns:
        the parameter in ``dtype`` and the remainder in int16. NaN and float16's infinities have the remainder 0.

    Example:
        >>> param, remainder = split(torch.tensor([1.0 + 2**-9]), torch.bfloat16)
        >>> param.item(), remainder.item()  # in units of 2**-23
        (1.0, 16384)
    """
    if dtype == torch.float16:
        param = x.to(dtype)
        units = torch.ldexp(x - param.float(), 24 - _exponent(param)).round()
        return param, torch.where(param.isfinite(), units, 0.0).to(torch.int16)
    bits = x.contiguous().view(torch.int32).long() & _MASK
    rounded = torch.where(x.isnan(), 0x7FC0, ((bits + 0x8000) & _MASK) >> 16)
    low = torch.where(x.isnan(), 0, bits & 0xFFFF)
    return _as_int16(rounded).view(torch.bfloat16), _as_int16(low)


def _exponent(param: Tensor) -> Tensor:
    """floor(log2) of a float16's magnitude: -14 for 0 and subnormal numbers, 16 for numbers that are not finite."""
    return ((param.view(torch.int16).int() >> 10) & 0x1F).clamp(min=1) - 15


def _as_int16(bits: Tensor) -> Tensor:
    """Numbers in [0, 2**16) as the int16 with these bits."""
    return torch.where(bits >= 0x8000, bits - 0x10000, bits).to(torch.int16)


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10: four random words of 32 bits for a counter and a key.

    Example:
        >>> [f"{word:08x}" for word in philox((0, 0, 0, 0), (0, 0))]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']

    Source: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & _MASK, (a >> 32) ^ c3 ^ k1, a & _MASK
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def random_bits(like: Tensor, operand: int, seed: int, clock: int, tensor: int) -> Tensor:
    """16 random bits for each element of a parameter.

    They depend on the arguments and on the element's place in the parameter's memory order, on nothing else. Each cell
    of 16,384 elements has a key, which Philox makes. An element's bits are the upper ones of a hash ("lowbias32") of
    the sum of its number in the cell and the key.

    Args:
        like: a tensor with the parameter's shape and strides.
        operand: 0 for the parameter, 1 for its first state, and so on.
        seed: below 2**64.
        clock: steps taken.
        tensor: the parameter's number in the optimizer.

    Returns:
        int64, of the parameter's shape, in [0, 2**16).
    """
    strides = like.stride()
    dims = sorted(range(like.dim()), key=lambda dim: -strides[dim] if like.shape[dim] > 1 else 1)
    sizes = [like.size(dim) for dim in dims]
    element = torch.arange(like.numel()).reshape(sizes)
    element = element.permute([dims.index(dim) for dim in range(like.dim())]).to(like.device)
    keys = [
        philox(
            (cell & _MASK, cell >> 32, tensor, clock & _MASK), (seed & _MASK, ((seed >> 32) ^ (clock >> 32)) & _MASK)
        )[operand]
        for cell in range(-(-like.numel() // 16384))
    ]
    x = (element % 16384 + torch.tensor(keys, device=like.device)[element // 16384]) & _MASK if keys else element
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x >> 16


def round_stochastically(x: Tensor, bits: Tensor) -> Tensor:
    """Rounds float32 numbers to bfloat16, up or down with the probabilities that make the mean right.

    Args:
        x: float32, any shape.
        bits: uniform in [0, 2**16), same shape. They are added below the last place, and what remains there is cut off.

    Example:
        >>> x = torch.full((4,), 1.0 + 2**-9)  # a quarter of the way to 1.0078125
        >>> round_stochastically(x, torch.tensor([0, 49151, 49152, 65535])).tolist()
        [1.0, 1.0, 1.0078125, 1.0078125]
    """
    stored = x.contiguous().view(torch.int32).long() & _MASK
    rounded = torch.where(x.isnan(), 0x7FC0, ((stored + bits) & _MASK) >> 16)
    return _as_int16(rounded).view(torch.bfloat16)
