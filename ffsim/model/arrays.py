"""Arrays that carry only a shape, so that the NumPy model can be costed without being computed.

A `Shape` answers NumPy's own dispatch protocols (NEP 13 and NEP 18): model code does not know whether it holds data.
Every matrix product met on the way is reported to the active `Meter`; nothing is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

Dims = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """``groups`` independent matrix products ``[m, k] @ [k, n]``: 2 * groups * m * n * k FLOP."""

    groups: int
    m: int
    n: int
    k: int

    @property
    def flop(self) -> float:
        """Multiply-adds counted twice."""
        return 2.0 * self.groups * self.m * self.n * self.k


@dataclass(slots=True)
class Meter:
    """Collects the matrix products of shape-only arrays while it is active."""

    products: list[Product] = field(default_factory=list)


_METER: ContextVar[Meter | None] = ContextVar("meter", default=None)


@contextmanager
def metered() -> Iterator[Meter]:
    """Collect the products met inside the block."""
    meter = Meter()
    token = _METER.set(meter)
    try:
        yield meter
    finally:
        _METER.reset(token)


def _report(product: Product) -> None:
    meter = _METER.get()
    if meter is not None:
        meter.products.append(product)


class Shape(NDArrayOperatorsMixin):
    """An array without data.

    >>> x, w = Shape(4, 4096, 7168), Shape(1536, 7168)
    >>> with metered() as meter:
    ...     y = np.exp(x @ w.T)[..., :512]
    >>> y, meter.products
    (Shape(4, 4096, 512), [Product(groups=1, m=16384, n=1536, k=7168)])
    """

    __slots__ = ("shape",)
    __array_priority__ = 1000.0

    def __init__(self, *shape: int) -> None:
        self.shape: Dims = shape

    def __repr__(self) -> str:
        return f"Shape{self.shape}" if len(self.shape) != 1 else f"Shape({self.shape[0]})"

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def T(self) -> Shape:  # noqa: N802 - NumPy's name
        """All axes reversed."""
        return Shape(*self.shape[::-1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Shape:
        return Shape(*_indexed(self.shape, index if isinstance(index, tuple) else (index,)))

    def __setitem__(self, index: Any, value: Any) -> None:
        np.broadcast_shapes(_indexed(self.shape, index if isinstance(index, tuple) else (index,)), np.shape(value))

    def reshape(self, *shape: Any) -> Shape:
        """As NumPy's; one axis may be -1."""
        dims = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        known = math.prod(d for d in dims if d != -1)
        result = tuple(self.size // max(known, 1) if d == -1 else int(d) for d in dims)
        if math.prod(result) != self.size:
            raise ValueError(f"cannot reshape {self.shape} into {dims}")
        return Shape(*result)

    def swapaxes(self, first: int, second: int) -> Shape:
        """As NumPy's."""
        dims = list(self.shape)
        dims[first], dims[second] = dims[second], dims[first]
        return Shape(*dims)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Shape:
        """As NumPy's."""
        return _reduced(self, axis, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Shape:
        """As NumPy's."""
        return _reduced(self, axis, keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Shape:
        """As NumPy's."""
        return _reduced(self, axis, keepdims)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if ufunc is np.matmul and method == "__call__":
            return _matmul(inputs[0].shape, inputs[1].shape)
        if method == "__call__":
            return _broadcast(*inputs)
        if method == "reduce":
            return _reduced(inputs[0], kwargs.get("axis", 0), bool(kwargs.get("keepdims", False)))
        if method == "at":
            return None
        return NotImplemented

    def __array_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        handler = _FUNCTIONS.get(function)
        return NotImplemented if handler is None else handler(*args, **kwargs)


Array = Any  # an ndarray or a Shape: NumPy's type stubs know no arrays that merely answer its protocols


def grouped_matmul(x: Array, w: Array, counts: Array) -> Array:
    """One product per group over consecutive rows: ``y[i] = x[i] @ w[g].T`` for row i of group g.

    Args:
        x: ``[n_rows, k]``, rows sorted by group.
        w: ``[n_groups, n, k]``.
        counts: ``[n_groups]``, rows per group; their sum is n_rows.

    Returns:
        ``[n_rows, n]``. On shapes the groups are taken as equal.
    """
    if isinstance(x, Shape) or isinstance(w, Shape):
        groups, n, k = w.shape
        _report(Product(groups, -(-x.shape[0] // groups), n, k))
        return Shape(x.shape[0], n)
    y = np.zeros((x.shape[0], w.shape[1]), dtype=np.result_type(x, w))
    for group, (start, stop) in enumerate(_spans(counts)):
        y[start:stop] = x[start:stop] @ w[group].T
    return y


def grouped_outer(dy: Array, x: Array, counts: Array) -> Array:
    """The weight gradient of `grouped_matmul`: ``dw[g] = dy_g.T @ x_g``, ``[n_groups, n, k]``."""
    groups = counts.shape[0]
    if isinstance(x, Shape) or isinstance(dy, Shape):
        n, k = dy.shape[1], x.shape[1]
        _report(Product(groups, n, k, -(-x.shape[0] // groups)))
        return Shape(groups, n, k)
    return np.stack([dy[start:stop].T @ x[start:stop] for start, stop in _spans(counts)])


def _spans(counts: Array) -> Iterator[tuple[int, int]]:
    stops = np.cumsum(counts).tolist()
    return zip([0, *stops[:-1]], stops, strict=True)


def _matmul(left: Dims, right: Dims) -> Shape:
    *batch_left, m, k = left
    *batch_right, k_right, n = right
    if k != k_right:
        raise ValueError(f"cannot multiply {left} by {right}")
    batch = np.broadcast_shapes(tuple(batch_left), tuple(batch_right))
    groups = math.prod(batch)
    if batch_right:
        _report(Product(groups, m, n, k))
    else:
        _report(Product(1, groups * m, n, k))  # one matrix shared by the whole batch
    return Shape(*batch, m, n)


def _indexed(shape: Dims, index: tuple[Any, ...]) -> Dims:
    """Shape of ``x[index]`` for slices, integers, None, Ellipsis and at most one integer array."""
    spare = len(shape) - sum(step is not None and step is not Ellipsis for step in index)
    result: list[int] = []
    axis = 0
    for step in index:
        if step is Ellipsis:
            result += shape[axis : axis + spare]
            axis += spare
            continue
        if step is None:
            result.append(1)
            continue
        if isinstance(step, slice):
            result.append(len(range(*step.indices(shape[axis]))))
        elif not isinstance(step, int | np.integer):
            result += np.shape(step)
        axis += 1
    return tuple(result) + shape[axis:]


def _reduced(x: Shape, axis: Any = None, keepdims: bool = False, **_: Any) -> Shape:
    axes = range(x.ndim) if axis is None else [a % x.ndim for a in np.atleast_1d(axis).tolist()]
    if keepdims:
        return Shape(*(1 if a in axes else d for a, d in enumerate(x.shape)))
    return Shape(*(d for a, d in enumerate(x.shape) if a not in axes))


def _concatenate(parts: Sequence[Array], axis: int = 0, **_: Any) -> Shape:
    dims = list(parts[0].shape)
    dims[axis] = sum(part.shape[axis] for part in parts)
    return Shape(*dims)


def _broadcast(*arrays: Array) -> Shape:
    shapes = {x.shape for x in arrays if isinstance(x, Shape | np.ndarray)} - {()}
    return Shape(*(shapes.pop() if len(shapes) == 1 else np.broadcast_shapes(*shapes)))


def _same(x: Array, *_: Any, shape: Dims | None = None, **__: Any) -> Shape:
    return Shape(*(x.shape if shape is None else shape))


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.arange: lambda start, stop: Shape(stop - start),
    np.argsort: _same,
    np.bincount: lambda x, weights=None, minlength=0: Shape(minlength),  # noqa: ARG005
    np.broadcast_to: lambda x, shape, **_: Shape(*shape),  # noqa: ARG005
    np.concatenate: _concatenate,
    np.max: _reduced,
    np.mean: _reduced,
    np.put_along_axis: lambda *_, **__: None,
    np.shape: lambda x: x.shape,
    np.sort: _same,
    np.sum: _reduced,
    np.swapaxes: Shape.swapaxes,
    np.take_along_axis: lambda x, indices, axis: Shape(*indices.shape),  # noqa: ARG005
    np.tri: lambda N, M=None, **_: Shape(N, M or N),  # NumPy passes its own argument names
    np.where: _broadcast,
    np.zeros_like: _same,
}
