"""What is kept from the forward to the backward pass, and what is computed or brought again instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ffsim.model.arrays import Array, Shape
from ffsim.model.layers import CORE
from ffsim.model.precision import Precision
from ffsim.model.segments import Again, Segments, passes_through
from ffsim.model.tape import Call, Tape

Recompute = Literal["norm", "mla_up", "swiglu", "attention", "layer"]
"""Outputs thrown away in the forward pass: of norms, of MLA's up-projections, of the activation function, all that is
inside core attention (scores, softmax, dropout, product with the values: the selective recomputation of arXiv
2205.05198), or all but the layer's input (its full recomputation)."""


@dataclass(frozen=True, slots=True)
class Retained:
    """What a backward pass finds.

    Attributes:
        kept: bytes saved by array.
        inputs: of these, what came from before the piece.
        replayed: forward calls that run again in the backward pass, in their order.
        again: messages that are sent again in it.
    """

    kept: dict[int, float]
    inputs: frozenset[int]
    replayed: list[Call]
    again: list[Again]


def in_fp8(call: Call, precision: Precision) -> bool:
    """Gate and head stay in BF16, as do the absorbed up-projections and the weights of the sparse selection."""
    return precision.quantised and not call.scope.endswith(("gate", "head", "absorbed", "index_weights"))


def retained(tape: Tape, precision: Precision, recompute: Sequence[Recompute], segments: Segments) -> Retained:
    """Follow what the gradient functions ask for back to what must be kept for it.

    An array that is recomputed is replaced by the inputs of its operator; one that a message brought by what that rank
    itself has of it, and the message is sent again: beside the gradients of its segment where only weight gradients
    need it, as in Megatron's sequence parallelism. Core attention runs again as a whole, as frameworks checkpoint it,
    though only its own gradients do without its outputs: the projection after it keeps what attention gives.

    Source: arXiv 2205.05198 s4 and s5: a GPT layer with dropout on unfused kernels in 2-byte activations keeps
    ``s b h (34 + 5 a s / h)`` bytes, and with a tensor group ``s b h (10 + 24 / t + 5 a s / (h t))``.
    """
    producer = {id(y): call for call in tape.calls for y in call.outputs}
    producer |= {id(call.inputs[name]): call for call in tape.calls for name in call.operator.masks}
    lasting = {id(call.arguments[name]) for call in tape.calls for name in call.operator.lasting}
    is_recomputed = _recomputed(recompute)
    kept: dict[int, float] = {}
    replayed: set[int] = set()
    again: dict[int, Again] = {}

    def need(array: Array, per_element: float, consumer: Call, *, at_end: bool = False, replay: bool = False) -> None:
        if id(array) in lasting or not isinstance(array, Shape):
            return
        call = producer.get(id(array))
        if call is None or not (_is_free(call) or is_recomputed(call, consumer)):
            kept[id(array)] = max(kept.get(id(array), 0.0), array.size * per_element)
            return
        if passes_through(call) and (replay or call.operator.name != "circulate"):  # a ring turns for gradients anyway
            _bring(again, Again(call, segments.of[id(consumer)], at_end))
        if id(call) in replayed:
            return
        replayed.add(id(call))
        for name, value in call.inputs.items():
            if _is_free(call):
                need(value, per_element, consumer, at_end=at_end, replay=replay)
            elif name not in call.operator.masks:
                need(value, _saved_bytes(call, name, precision), call, replay=True)

    for gradient_call in tape.gradient_calls:
        call, at_end = gradient_call.call, gradient_call.gradient.phase == "W"
        for name in gradient_call.gradient.needs:
            for array in call.outputs if name == "y" else (call.inputs.get(name),):
                need(array, _saved_bytes(call, name, precision), call, at_end=at_end)
    core = "attention" in recompute and any(is_core(call) for call in tape.calls if id(call) in replayed)
    return Retained(
        kept=kept,
        inputs=frozenset(kept) - frozenset(producer),
        replayed=[call for call in tape.calls if id(call) in replayed or (core and is_core(call))],
        again=list(again.values()),
    )


def _is_free(call: Call) -> bool:
    """Whether a result is nothing new: a view, or what a message brings of something that is kept."""
    return call.operator.kind == "view" or passes_through(call)


def _bring(again: dict[int, Again], new: Again) -> None:
    """Send it again once, for the first segment that the gradient reaches, and at its start if any need is there."""
    old = again.get(id(new.call), new)
    again[id(new.call)] = Again(new.call, max(old.segment, new.segment), old.beside and new.beside)


def is_core(call: Call) -> bool:
    """Whether a call is inside core attention."""
    return call.operator.kind == "attention" or call.scope.rpartition("/")[2] == CORE


def _recomputed(recompute: Sequence[Recompute]) -> Callable[[Call, Call], bool]:
    def is_recomputed(call: Call, consumer: Call) -> bool:
        name, place = call.operator.name, call.scope.rpartition("/")[2]
        return (
            ("norm" in recompute and name in {"rms_norm", "layer_norm"})
            or ("swiglu" in recompute and name in {"swiglu", "weighted_swiglu", "gelu"})
            or ("mla_up" in recompute and place in {"wq_b", "wkv_b", "rope"})
            or ("attention" in recompute and is_core(call) and is_core(consumer))
        )

    return is_recomputed


def _saved_bytes(call: Call, name: str, precision: Precision) -> float:
    """Bytes per element in which a tensor is kept for one of its uses."""
    kind = call.operator.kind
    if name in call.operator.masks:
        return 1.0
    if kind in {"gemm", "grouped_gemm"} and name == "x":
        return precision.linear_input_bytes if in_fp8(call, precision) else precision.activation_bytes
    if kind == "attention" and name == "y":
        return precision.attention_output_bytes
    if call.operator.casts and name == "x":
        return precision.swiglu_input_bytes
    return precision.activation_bytes


def held_for_weights(tape: Tape, precision: Precision) -> float:
    """Bytes that wait for the weight gradients of a pass once its input gradients are done.

    The input of every linear map, of what a message brought only this rank's part, and the gradient of its output.
    """
    producer = {id(y): call for call in tape.calls for y in call.outputs}
    held: dict[int, float] = {}
    for gradient_call in tape.gradient_calls:
        if gradient_call.gradient.phase != "W" or gradient_call.call.operator.gathers:
            continue
        x, dy = gradient_call.call.inputs["x"], gradient_call.dy
        per_element = _saved_bytes(gradient_call.call, "x", precision)
        while id(x) in producer and _is_free(producer[id(x)]) and len(producer[id(x)].inputs) == 1:
            x = next(iter(producer[id(x)].inputs.values()))
        held[id(x)] = max(held.get(id(x), 0.0), x.size * per_element)
        held[id(dy)] = max(held.get(id(dy), 0.0), dy.size * precision.activation_bytes)
    return sum(held.values())
