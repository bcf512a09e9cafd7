"""Combinations of options, named by those that are set."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

# The first moment weighs a gradient less than half, more than half, and wholly; at beta2 = 0.5 the
# second moment also falls, without which amsgrad's maximum would never be in use.
MOMENTS: tuple[dict[str, Any], ...] = (
    {"betas": (0.9, 0.999), "eps": 1e-8},
    {"betas": (0.4, 0.5), "eps": 1e-3},
    {"betas": (0.0, 0.5), "eps": 1e-8},
)
CHOICES_OF_MOMENTS: dict[str, tuple[Any, ...]] = {"betas": ((0.9, 0.999), (0.4, 0.5)), "eps": (1e-8, 1e-2)}


def combinations(**choices: Sequence[Any]) -> Iterator[dict[str, Any]]:
    for combination in itertools.product(*choices.values()):
        yield dict(zip(choices, combination, strict=True))


def name_of(options: Mapping[str, Any]) -> str:
    return "-".join(k if v is True else f"{k}={v}" for k, v in options.items() if v) or "plain"


def named(every: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    every = list(every)
    by_name = {name_of(options): options for options in every}
    assert len(by_name) == len(every), "two combinations of options have one name"
    return by_name


def with_and_without_decay(every: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Decay and sign, which enter in front of everything else, only together."""
    rests: tuple[dict[str, Any], ...] = ({}, {"weight_decay": 0.1, "maximize": True})
    return named({**options, **rest} for options, rest in itertools.product(every, rests))


def of_momentum() -> Iterator[dict[str, Any]]:
    """All options of torch.optim.SGD that go together."""
    every = combinations(
        momentum=(0, 0.9), dampening=(0, 0.3), weight_decay=(0, 0.1), nesterov=(False, True), maximize=(False, True)
    )
    for options in every:
        if not options["nesterov"] or (options["momentum"] and not options["dampening"]):
            yield options


def of_adam() -> dict[str, Mapping[str, Any]]:
    """All options that Adam and AdamW share, with each pair of betas."""
    every = itertools.product(
        combinations(weight_decay=(0, 0.1), amsgrad=(False, True), maximize=(False, True)), MOMENTS
    )
    return {f"beta1={m['betas'][0]}-{name_of(options)}": {**m, **options} for options, m in every}
