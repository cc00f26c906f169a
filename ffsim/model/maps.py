"""Norms and linear maps with their parameters looked up by name."""

from __future__ import annotations

from typing import Any

from ffsim.model import functions as f
from ffsim.model.arrays import Array
from ffsim.model.exchanges import summed
from ffsim.model.parameters import Arrays
from ffsim.model.tape import scope


def normed(p: Arrays, name: str, x: Array) -> Any:
    """The norm of that name: LayerNorm where it has a bias, else RMSNorm."""
    with scope(name):
        bias = p.get(name + "_bias")
        return f.rms_norm(x, p[name]) if bias is None else f.layer_norm(x, p[name], bias)


def projected(p: Arrays, name: str, x: Array) -> Any:
    """The linear map of that name, with its bias if it has one."""
    with scope(name):
        return biased(p, name, f.linear(x, p[name]))


def finished(p: Arrays, name: str, x: Array) -> Any:
    """The linear map that ends a block: its partial sums added up over the tensor group, then its bias."""
    with scope(name):
        return biased(p, name, summed(f.linear(x, p[name])))


def biased(p: Arrays, name: str, y: Array) -> Any:
    """With the bias of that name if there is one."""
    bias = p.get(name + "_bias")
    return y if bias is None else f.add_bias(y, bias)
