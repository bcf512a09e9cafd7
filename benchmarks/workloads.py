"""The models on whose shapes steps are timed: groups of parameter shapes, each with its factor on the rate."""

from __future__ import annotations

import math
from typing import NamedTuple

Shapes = list[tuple[int, ...]]


class Group(NamedTuple):
    shapes: Shapes
    rate: float = 1.0  # times the learning rate


class Workload(NamedTuple):
    groups: list[Group]

    @property
    def shapes(self) -> Shapes:
        return [shape for group in self.groups for shape in group.shapes]

    @property
    def tensors(self) -> int:
        return len(self.shapes)

    @property
    def parameters(self) -> int:
        return sum(map(math.prod, self.shapes))

    def tiny(self) -> Workload:
        """As many groups and tensors, of a few elements each, to see that everything runs."""
        return Workload([Group([tuple(min(n, 4) for n in s) for s in g.shapes], g.rate) for g in self.groups])


def mlp() -> Workload:
    """Three linear layers: 6 tensors, 26,122 parameters."""
    widths = (64, 128, 128, 10)
    shapes: Shapes = []
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        shapes += [(outputs, inputs), (outputs,)]
    return Workload([Group(shapes)])


def many_small() -> Workload:
    """Many small tensors, for the cost of a step per tensor: 500 tensors, 32,000 parameters."""
    return Workload([Group([(64,)] * 500)])


def vit_tiny(decay: float = 0.75) -> Workload:
    """ViT-Ti/16 of Touvron et al. (2021): 152 tensors, 5,717,416 parameters.

    It has layer-wise decayed rates, as in fine-tuning (Bao et al., 2022): a group for the embeddings, one for each of
    the 12 blocks and one for the head. The head has the whole rate, and each layer `decay` times the
    rate of the layer above.
    """
    width, depth = 192, 12
    norm: Shapes = [(width,), (width,)]
    block = [
        *norm,
        *[(3 * width, width), (3 * width,), (width, width), (width,)],
        *norm,
        *[(4 * width, width), (4 * width,), (width, 4 * width), (width,)],
    ]
    embeddings: Shapes = [(1, 1, width), (1, 197, width), (width, 3, 16, 16), (width,)]
    layers = [embeddings, *[block] * depth, [*norm, (1000, width), (1000,)]]
    return Workload([Group(layer, decay ** (depth + 1 - i)) for i, layer in enumerate(layers)])


def resnet50() -> Workload:
    """He et al. (2016), table 1: 161 tensors, 25,557,032 parameters."""

    def convolution(outputs: int, inputs: int, size: int) -> Shapes:
        """With the weight and bias of the batch normalisation that follows it."""
        return [(outputs, inputs, size, size), (outputs,), (outputs,)]

    shapes = convolution(64, 3, 7)
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += convolution(width, inputs, 1) + convolution(width, width, 3) + convolution(4 * width, width, 1)
            if block == 0:
                shapes += convolution(4 * width, inputs, 1)
            inputs = 4 * width
    return Workload([Group([*shapes, (1000, inputs), (1000,)])])


def gpt2_small() -> Workload:
    """Radford et al. (2019), the smallest model: 148 tensors, 124,439,808 parameters."""
    width, depth = 768, 12
    norm: Shapes = [(width,), (width,)]
    block = [
        *norm,
        *[(width, 3 * width), (3 * width,), (width, width), (width,)],
        *norm,
        *[(width, 4 * width), (4 * width,), (4 * width, width), (width,)],
    ]
    return Workload([Group([(50257, width), (1024, width), *block * depth, *norm])])


WORKLOADS = {
    "mlp": mlp(),
    "500x64": many_small(),
    "vit_ti": vit_tiny(),
    "resnet50": resnet50(),
    "gpt2": gpt2_small(),
}
