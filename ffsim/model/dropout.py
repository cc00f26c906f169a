"""Dropping a share of activations; costs ask only for the byte per element that says which."""

from __future__ import annotations

from typing import Any

from ffsim.model import functions as f
from ffsim.model.arrays import Array
from ffsim.model.execution import execution
from ffsim.model.tape import operator


@operator("elementwise", masks=("mask",))
def dropout(x: Array, mask: Array, rate: float) -> Any:
    """Keep where ``mask``, scaled up by what is dropped: ``x mask / (1 - rate)``."""
    return x * mask / (1 - rate)


@dropout.grad("x")
def _(dy: Array, mask: Array, rate: float) -> Any:
    return dy * mask / (1 - rate)


@operator("elementwise", masks=("mask",))
def dropout_add(residual: Array, x: Array, mask: Array, rate: float) -> Any:
    """`dropout` and the residual sum in one pass, as training frameworks fuse them."""
    return residual + x * mask / (1 - rate)


@dropout_add.grad("residual", "x")
def _(dy: Array, mask: Array, rate: float) -> Any:
    return dy, dy * mask / (1 - rate)


def residual_sum(x: Array, y: Array) -> Any:
    """The stream plus what a block made of it, of which dropout may drop a share."""
    e = execution()
    return dropout_add(x, y, e.mask(y), e.dropout) if e.dropout else f.add(x, y)
