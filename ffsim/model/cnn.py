"""A convolutional classifier (VGG): its operators with their gradients, its parameters, its two pieces.

Images are ``[images, side, side, channels]``. A 3x3 convolution is the product of every pixel's neighbourhood with the
filters; GPUs compute it as that product without ever writing the neighbourhoods out, and so it is costed: m = pixels of
all images, n = channels out, k = 9 x channels in (forward), the same with channels exchanged (input gradient), channels
out x 9 channels in over all pixels (weight gradient).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ffsim.model import functions as f
from ffsim.model.arrays import Array, Dims
from ffsim.model.parameters import Arrays, Shapes
from ffsim.model.spec import CnnSpec, Layout
from ffsim.model.tape import operator, scope

CnnPiece = Literal["convolutions", "classifier"]
COLOURS = 3
SIDE = 3  # of a filter


# --- operators --------------------------------------------------------------------------------------------------------


def _neighbourhoods(x: Array) -> Any:
    """Every pixel's 3x3 neighbourhood, zero beyond the border: ``[images, side, side, 9 channels]``."""
    images, height, width, channels = x.shape
    padded = np.zeros_like(x, shape=(images, height + 2, width + 2, channels))
    padded[:, 1:-1, 1:-1] = x
    parts = [padded[:, i : i + height, j : j + width] for i in range(SIDE) for j in range(SIDE)]
    return np.concatenate(parts, axis=-1)


@operator("convolution")
def convolve(x: Array, w: Array, layout: Layout = "nhwc") -> Any:  # noqa: ARG001 - of the GPU's memory, not of ours
    """3x3 filters that keep the size: ``[images, side, side, in], [out, 3, 3, in] -> [images, side, side, out]``."""
    return _neighbourhoods(x) @ w.reshape(w.shape[0], -1).T


@convolve.grad("x")
def _(dy: Array, w: Array) -> Any:
    turned = np.swapaxes(w[:, ::-1, ::-1], 0, 3)
    return _neighbourhoods(dy) @ turned.reshape(w.shape[3], -1).T


@convolve.grad("w", phase="W")
def _(dy: Array, x: Array, w_shape: Dims) -> Any:
    return _filter_gradient(dy, x, w_shape)


@operator("convolution", lasting=("x",))
def convolve_image(x: Array, w: Array, layout: Layout = "nhwc") -> Any:  # noqa: ARG001
    """`convolve` of the images themselves, whose gradient nobody asks for and which the data loader keeps."""
    return _neighbourhoods(x) @ w.reshape(w.shape[0], -1).T


@convolve_image.grad("w", phase="W")
def _(dy: Array, x: Array, w_shape: Dims) -> Any:
    return _filter_gradient(dy, x, w_shape)


def _filter_gradient(dy: Array, x: Array, w_shape: Dims) -> Any:
    neighbourhoods = _neighbourhoods(x)
    pixels = dy.reshape(-1, dy.shape[-1]).T @ neighbourhoods.reshape(-1, neighbourhoods.shape[-1])
    return pixels.reshape(*w_shape)


@operator("elementwise", lasting=("bias",))
def add_channel_bias(x: Array, bias: Array) -> Any:
    """``x + bias`` for every pixel: a pass of its own, where linear maps add theirs as they write their result."""
    return x + bias


@add_channel_bias.grad("x", "bias")
def _(dy: Array, bias_shape: Dims) -> Any:
    return dy, np.sum(dy.reshape(-1, *bias_shape), axis=0)


@operator("elementwise")
def relu(x: Array) -> Any:
    """``max(x, 0)``, in place: only the result is kept."""
    return np.maximum(x, 0)


@relu.grad("x")
def _(dy: Array, y: Array) -> Any:
    return np.where(y > 0, dy, 0)


@operator("elementwise")
def max_pool(x: Array) -> Any:
    """The largest of every 2x2 pixels: ``[images, side, side, channels] -> [images, side / 2, side / 2, channels]``."""
    top = np.maximum(x[:, ::2, ::2], x[:, ::2, 1::2])
    return np.maximum(top, np.maximum(x[:, 1::2, ::2], x[:, 1::2, 1::2]))


@max_pool.grad("x")
def _(dy: Array, x: Array, y: Array) -> Any:
    gradient = np.zeros_like(x)
    left = dy  # of equals the first takes it all
    for i in (0, 1):
        for j in (0, 1):
            chosen = x[:, i::2, j::2] == y
            gradient[:, i::2, j::2] = np.where(chosen, left, 0)
            left = np.where(chosen, 0, left)
    return gradient


# --- pieces -----------------------------------------------------------------------------------------------------------


def cnn_shapes(spec: CnnSpec, kind: CnnPiece) -> Shapes:
    """Parameters of one piece."""
    shapes: Shapes = {}
    if kind == "classifier":
        into = spec.features
        for number, width in enumerate(spec.linears):
            shapes |= {f"linear{number}": (width, into), f"linear{number}_bias": (width,)}
            into = width
        return shapes
    channels = COLOURS
    for stage, widths in enumerate(spec.stages):
        for number, width in enumerate(widths):
            name = f"conv{stage}_{number}"
            shapes |= {name: (width, SIDE, SIDE, channels), f"{name}_bias": (width,)}
            channels = width
    return shapes


def cnn_input(spec: CnnSpec, kind: CnnPiece, images: int) -> Dims:
    """Shape of what a piece is given for so many images."""
    if kind == "convolutions":
        return (images, spec.image, spec.image, COLOURS)
    side = spec.image >> len(spec.stages)
    return (images, side, side, spec.stages[-1][-1])


def convolutions(spec: CnnSpec, p: Arrays, x: Array) -> Any:
    """Stages of convolutions, each with bias and ReLU, each stage ended by pooling."""
    for stage, widths in enumerate(spec.stages):
        for number in range(len(widths)):
            name = f"conv{stage}_{number}"
            with scope(name):
                apply = convolve_image if stage == number == 0 else convolve
                x = relu(add_channel_bias(apply(x, p[name], spec.layout), p[f"{name}_bias"]))
        with scope(f"pool{stage}"):
            x = max_pool(x)
    return x


def logits(spec: CnnSpec, p: Arrays, x: Array) -> Any:
    """Linear layers with ReLU between: ``[images, side, side, channels] -> [images, classes]``; dropout is left out."""
    x = f.reshape(x, (x.shape[0], spec.features))
    for number in range(len(spec.linears)):
        with scope(f"linear{number}"):
            x = f.add_bias(f.linear(x, p[f"linear{number}"]), p[f"linear{number}_bias"])
            x = x if number == len(spec.linears) - 1 else relu(x)
    return x
