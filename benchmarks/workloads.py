"""The models whose shapes are stepped, as lists of parameter shapes."""

from __future__ import annotations

Shapes = list[tuple[int, ...]]


def mlp() -> Shapes:
    """Three linear layers: 6 tensors, 26,122 parameters."""
    widths = (64, 128, 128, 10)
    return [
        shape for inputs, outputs in zip(widths, widths[1:], strict=False) for shape in [(outputs, inputs), (outputs,)]
    ]


def many_small() -> Shapes:
    """What a step costs per tensor: 500 tensors, 32,000 parameters."""
    return [(64,)] * 500


def resnet50() -> Shapes:
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
    return [*shapes, (1000, inputs), (1000,)]


WORKLOADS = {"mlp": mlp(), "500x64": many_small(), "resnet50": resnet50()}
