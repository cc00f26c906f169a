"""The messages of a layer that several ranks share, as operators: each knows the message that carries its gradient.

On real arrays they exchange through `Execution.everyone`, so that ranks in threads compute what one rank would; on
`Shape` arrays they only change shapes and leave a `Call` from which `ffsim.model.segments` reads the message.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, Literal

import numpy as np

from ffsim.model.arrays import Array
from ffsim.model.execution import GroupName, execution, zigzag
from ffsim.model.tape import operator

ExchangeKind = Literal["dispatch", "combine", "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ring"]

WIRES: dict[str, tuple[ExchangeKind | None, ExchangeKind | None]] = {
    "dispatch": ("dispatch", "combine"),
    "combine": ("combine", "dispatch"),
    "copy_in": (None, "all-reduce"),
    "all_reduce": ("all-reduce", None),
    "maximum": ("all-reduce", None),
    "all_gather": ("all-gather", "reduce-scatter"),
    "reduce_scatter": ("reduce-scatter", "all-gather"),
    "all_to_all": ("all-to-all", "all-to-all"),
    "circulate": ("ring", "ring"),
}
"""What each operator sends, and what its gradient sends."""


def everyone(group: GroupName, x: Array) -> list[Array]:
    """What all ranks of a group hold, in their order; not recorded, as small bookkeeping need not be."""
    e = execution()
    return [x] * e.size(group) if e.everyone is None else e.everyone(group, x)


def _sum(group: GroupName, x: Array) -> Any:
    return reduce(lambda a, b: a + b, everyone(group, x))


def _join(group: GroupName, x: Array, axis: int) -> Any:
    return np.concatenate(everyone(group, x), axis=axis)


def _own(group: GroupName, x: Array, axis: int) -> Any:
    """This rank's part of an axis."""
    part = x.shape[axis] // execution().size(group)
    start = execution().at(group) * part
    return x[(slice(None),) * axis + (slice(start, start + part),)]


@operator("exchange")
def copy_in(x: Array, group: GroupName) -> Any:  # noqa: ARG001 - its gradient reads it
    """What every rank holds goes into the parts of all: nothing moves, but the gradients of the parts add up."""
    return x.reshape(x.shape)


@copy_in.grad("x")
def _(dy: Array, group: GroupName) -> Any:
    return _sum(group, dy)


@operator("exchange")
def all_reduce(x: Array, group: GroupName, fp32: bool = False) -> Any:  # noqa: ARG001 - `segments` reads it
    """The sum of what all ranks hold, on each of them; in FP32 whatever the recipe, if asked."""
    return _sum(group, x)


@all_reduce.grad("x")
def _(dy: Array) -> Any:
    return dy


@operator("exchange")
def maximum(x: Array, group: GroupName, fp32: bool = True) -> Any:  # noqa: ARG001 - `segments` reads it
    """The largest of what all ranks hold, element by element. It has no gradient."""
    return reduce(np.maximum, everyone(group, x))


@operator("exchange")
def all_gather(x: Array, axis: int, group: GroupName) -> Any:
    """What all ranks hold, side by side along an axis."""
    return _join(group, x, axis)


@all_gather.grad("x")
def _(dy: Array, axis: int, group: GroupName) -> Any:
    return _own(group, _sum(group, dy), axis)


@operator("exchange")
def reduce_scatter(x: Array, axis: int, group: GroupName) -> Any:
    """This rank's part of the sum of what all ranks hold."""
    return _own(group, _sum(group, x), axis)


@reduce_scatter.grad("x")
def _(dy: Array, axis: int, group: GroupName) -> Any:
    return _join(group, dy, axis)


@operator("exchange")
def all_to_all(x: Array, cut_axis: int, join_axis: int, group: GroupName) -> Any:
    """Every rank gives each rank its part along one axis; what arrives is joined along another (tokens for heads)."""
    return np.concatenate([_own(group, part, cut_axis) for part in everyone(group, x)], axis=join_axis)


@all_to_all.grad("x")
def _(dy: Array, cut_axis: int, join_axis: int, group: GroupName) -> Any:
    return np.concatenate([_own(group, part, join_axis) for part in everyone(group, dy)], axis=cut_axis)


@operator("exchange")
def circulate(k: Array, v: Array, group: GroupName) -> Any:
    """Keys and values of all ranks, as they come round the ring: ``[B, S / ranks, H, D] -> [B, S, H, D]`` each.

    No rank ever holds them all: attention takes them as they pass. In the backward pass they come round again, and the
    gradients of each rank's keys and values travel with them. Latent attention lets expanded keys and values travel:
    latents would be far fewer bytes, but every rank would then expand those of all.
    """
    e = execution()
    order = np.concatenate([zigzag(rank, e.context, k.shape[1] * e.context) for rank in range(e.context)])
    back = np.argsort(order, kind="stable")
    return _join(group, k, 1)[:, back], _join(group, v, 1)[:, back]


@circulate.grad("k", "v")
def _(dy: tuple[Array, Array], group: GroupName) -> Any:
    e = execution()
    held = zigzag(e.at(group), e.context, dy[0].shape[1])
    return _sum(group, dy[0])[:, held], _sum(group, dy[1])[:, held]


# --- what the layers call: nothing at all on one rank -----------------------------------------------------------------


def entered(x: Array, axis: int = 1) -> Any:
    """What the ranks of a tensor group need to work on a block together: all of its tokens.

    Args:
        x: tokens along ``axis``: this rank's with sequence parallelism, else all of them.
        axis: where tokens are divided.
    """
    e = execution()
    if e.tensor == 1:
        return x
    return all_gather(x, axis, "tensor") if e.sequence_parallel else copy_in(x, "tensor")


def summed(y: Array, axis: int = 1) -> Any:
    """What the ranks of a tensor group made of a block, added up: of this rank's tokens with sequence parallelism."""
    e = execution()
    if e.tensor == 1:
        return y
    return reduce_scatter(y, axis, "tensor") if e.sequence_parallel else all_reduce(y, "tensor")


def gathered(x: Array, axis: int = 1) -> Any:
    """All tokens of what sequence parallelism divides, for work that each rank of a tensor group does whole."""
    return all_gather(x, axis, "tensor") if execution().token_shards > 1 else x
