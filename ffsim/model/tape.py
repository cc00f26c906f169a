"""Operators that know their gradient, and the tape that plays them backwards.

An operator is a NumPy function, roughly one GPU kernel, with a gradient function per group of inputs. The tape records
the calls of a forward pass and calls the gradient functions in reverse: micrograd on arrays. Input gradients (phase
``B``) are told apart from weight gradients (phase ``W``), because pipelines schedule them apart. Run on `Shape` arrays
the same tape yields the operators of a training step without computing anything.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ffsim.errors import ModelDomainError, Problem
from ffsim.model.arrays import Array, Dims, Product, Shape, metered

Kind = Literal[
    "gemm",
    "grouped_gemm",
    "batched",
    "convolution",
    "attention",
    "index",
    "elementwise",
    "view",
    "dispatch",
    "combine",
    "exchange",
]
Phase = Literal["F", "R", "B", "W"]
Tensors = tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Gradient:
    """One gradient function: which inputs it serves and which tensors it asks for."""

    serves: tuple[str, ...]
    phase: Phase
    function: Callable[..., Any]
    needs: tuple[str, ...]


class Operator:
    """A differentiable NumPy function.

    The names in a gradient function's signature say what it needs: ``dy`` (gradient of the output), ``y`` (the output),
    any input or option of the forward function, or only the shape of an input (``x_shape``). What a backward pass must
    keep in memory follows from them.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        kind: Kind,
        *,
        casts: bool,
        gathers: bool,
        lasting: tuple[str, ...],
        masks: tuple[str, ...],
    ) -> None:
        self.name = forward.__name__
        self.kind = kind
        self.casts = casts
        self.gathers = gathers
        self.lasting = set(lasting)
        self.masks = frozenset(masks)
        self.gradients: list[Gradient] = []
        self._forward = forward
        options = inspect.signature(forward).parameters
        self._names = tuple(options)
        self._defaults = {name: o.default for name, o in options.items() if o.default is not o.empty}
        self.__doc__ = forward.__doc__

    def grad(self, *serves: str, phase: Phase = "B") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register the gradient with respect to some inputs (several: the function returns a tuple in that order)."""

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            needs = tuple(inspect.signature(function).parameters)
            self.gradients.append(Gradient(serves, phase, function, needs))
            if phase == "W":
                self.lasting.update(serves)
            return function

        return register

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute, and record the call where a tape is running."""
        tape = _TAPE.get()
        if tape is None:
            return self._forward(*args, **kwargs)
        token = _TAPE.set(None)  # an operator inside an operator is the outer one's business
        try:
            with metered() as meter:
                y = self._forward(*args, **kwargs)
        finally:
            _TAPE.reset(token)
        arguments = {**self._defaults, **dict(zip(self._names, args, strict=False)), **kwargs}
        inputs = {name: value for name, value in arguments.items() if isinstance(value, np.ndarray | Shape)}
        tape.append(Call(self, "/".join(_SCOPE.get()), arguments, inputs, y, tuple(meter.products)))
        return y


def operator(
    kind: Kind,
    *,
    casts: bool = False,
    gathers: bool = False,
    lasting: tuple[str, ...] = (),
    masks: tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], Operator]:
    """Turn a NumPy function into an `Operator`.

    Args:
        kind: what sort of kernel it is.
        casts: its result is quantised on the way out where the recipe wants the next operand quantised.
        gathers: it touches only the rows it looks up, not the whole table.
        lasting: inputs that outlive a micro-batch (norm gains, tables), beside those with a weight gradient.
        masks: inputs of one byte an element that the kernel draws itself, and draws again where it is run again.
    """
    return lambda forward: Operator(forward, kind, casts=casts, gathers=gathers, lasting=lasting, masks=masks)


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One forward call: operator, scope, arguments by name (``inputs`` are those that are arrays), output, products."""

    operator: Operator
    scope: str
    arguments: Mapping[str, Any]
    inputs: Mapping[str, Array]
    y: Any
    products: tuple[Product, ...]

    @property
    def shapes(self) -> dict[str, Dims]:
        """The shapes of the inputs, as gradient functions ask for them."""
        return {f"{name}_shape": value.shape for name, value in self.inputs.items()}

    @property
    def outputs(self) -> Tensors:
        """The output as a tuple."""
        return self.y if isinstance(self.y, tuple) else (self.y,)

    @property
    def name(self) -> str:
        """Scope and operator, as tables show it."""
        return f"{self.scope}/{self.operator.name}" if self.scope else self.operator.name


@dataclass(frozen=True, slots=True, eq=False)
class GradientCall:
    """One backward call: which gradient of which forward call, with its products."""

    call: Call
    gradient: Gradient
    dy: Any
    results: Tensors
    products: tuple[Product, ...]


@dataclass(slots=True)
class Tape:
    """The calls of one forward pass, and after `backward` those of the backward pass."""

    calls: list[Call] = field(default_factory=list)
    gradient_calls: list[GradientCall] = field(default_factory=list)

    def append(self, call: Call) -> None:
        """Record a forward call."""
        self.calls.append(call)

    def backward(self, seeds: list[tuple[Array, Array]]) -> Gradients:
        """Play the tape backwards.

        Args:
            seeds: pairs of an output array and its gradient, of the same shape.

        Returns:
            The gradients of every array that reached an output, looked up by the array itself.

        Raises:
            ModelDomainError: an operator on the way has no gradient.
        """
        gradients = Gradients()
        for array, gradient in seeds:
            gradients.add(array, gradient)
        for call in reversed(self.calls):
            dys = tuple(gradients.get(y) for y in call.outputs)
            if all(dy is None for dy in dys):
                continue
            if not call.operator.gradients:
                raise ModelDomainError(Problem(what=f"{call.name} has no gradient", fix="use it for decoding only"))
            dy = dys if isinstance(call.y, tuple) else dys[0]
            known = {**call.arguments, **call.shapes, "y": call.y, "dy": dy}
            for gradient in call.operator.gradients:
                with metered() as meter:
                    found = gradient.function(**{name: known[name] for name in gradient.needs})
                results = found if isinstance(found, tuple) else (found,)
                for name, result in zip(gradient.serves, results, strict=True):
                    if result is not None:
                        gradients.add(call.arguments[name], result)
                self.gradient_calls.append(GradientCall(call, gradient, dy, results, tuple(meter.products)))
        return gradients


class Gradients:
    """Gradients by array identity."""

    def __init__(self) -> None:
        self._by_id: dict[int, tuple[Array, Array]] = {}

    def add(self, array: Array, gradient: Array) -> None:
        """Accumulate."""
        held = self._by_id.get(id(array))
        self._by_id[id(array)] = (array, gradient if held is None else held[1] + gradient)

    def get(self, array: Array) -> Array | None:
        """The gradient, or None if the array reached no output."""
        held = self._by_id.get(id(array))
        return None if held is None else held[1]

    def __getitem__(self, array: Array) -> Array:
        """The gradient of an array that reached an output."""
        found = self.get(array)
        if found is None:
            raise KeyError("no gradient reached this array")
        return found


_TAPE: ContextVar[Tape | None] = ContextVar("tape", default=None)
_SCOPE: ContextVar[tuple[str, ...]] = ContextVar("scope", default=())


@contextmanager
def recording() -> Iterator[Tape]:
    """Record every operator called inside the block."""
    tape = Tape()
    token = _TAPE.set(tape)
    try:
        yield tape
    finally:
        _TAPE.reset(token)


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Name the part of the model that the block belongs to."""
    token = _SCOPE.set((*_SCOPE.get(), name))
    try:
        yield
    finally:
        _SCOPE.reset(token)
