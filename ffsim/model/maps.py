"""Norms and linear maps with their parameters looked up by name."""

from __future__ import annotations

from typing import Any

import numpy as np

from ffsim.model import functions as f
from ffsim.model.arrays import Array, Dims
from ffsim.model.exchanges import summed
from ffsim.model.parameters import Arrays
from ffsim.model.tape import operator, scope


@operator("view", lasting=("a", "b", "c"))
def stack_rows(a: Array, b: Array, c: Array) -> Any:
    """Parameters under one another, as frameworks keep those that are multiplied together."""
    return np.concatenate([a, b, c], axis=0)


@stack_rows.grad("a", "b", "c")
def _(dy: Array, a_shape: Dims, b_shape: Dims) -> Any:
    second, third = a_shape[0], a_shape[0] + b_shape[0]
    return dy[:second], dy[second:third], dy[third:]


def normed(p: Arrays, name: str, x: Array) -> Any:
    """The norm of that name: LayerNorm where it has a bias, else RMSNorm."""
    with scope(name):
        bias = p.get(name + "_bias")
        return f.rms_norm(x, p[name]) if bias is None else f.layer_norm(x, p[name], bias)


def projected(p: Arrays, name: str, x: Array) -> Any:
    """The linear map of that name, with its bias if it has one."""
    with scope(name):
        return biased(p, name, f.linear(x, p[name]))


def projected_together(p: Arrays, names: tuple[str, str, str], x: Array) -> tuple[Any, Any, Any]:
    """Three linear maps of one input as one product, their biases as one sum."""
    width, then = (p[name].shape[0] for name in names[:2])
    with scope("+".join(names)):
        y = f.linear(x, stack_rows(*(p[name] for name in names)))
        if names[0] + "_bias" in p:
            y = f.add_bias(y, stack_rows(*(p[name + "_bias"] for name in names)))
    first, rest = f.split(y, width)
    return first, *f.split(rest, then)


def finished(p: Arrays, name: str, x: Array) -> Any:
    """The linear map that ends a block: its partial sums added up over the tensor group, then its bias."""
    with scope(name):
        return biased(p, name, summed(f.linear(x, p[name])))


def biased(p: Arrays, name: str, y: Array) -> Any:
    """With the bias of that name if there is one."""
    bias = p.get(name + "_bias")
    return y if bias is None else f.add_bias(y, bias)
