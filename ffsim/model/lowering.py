"""From a recorded pass to the kernels a GPU runs and the bytes it must keep.

Under a precision recipe quantising casts appear, recomputed operators are replayed in the backward pass, and whatever
the gradient functions ask for is added up as activation memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

import numpy as np

from ffsim.model.arrays import Array, Shape
from ffsim.model.kernels import BF16_BYTES, Place, elements
from ffsim.model.operators import Family, Operators, Row
from ffsim.model.precision import Dtype, Precision
from ffsim.model.tape import Call, GradientCall, Phase, Tape

Recompute = Literal["norm", "mla_up", "swiglu", "attention", "layer"]

FEW_QUERIES = 16  # new tokens of a sequence up to which attention runs as a decoding kernel


@dataclass(frozen=True, slots=True)
class Lowered:
    """What one piece of a model costs per micro-batch.

    Attributes:
        operators: the kernels of forward, input gradient and weight gradient.
        saved_bytes: what must be kept from the forward to the backward pass.
        saved_expert_bytes: of these, what grows with the tokens that the rank's experts receive.
        has_experts: whether tokens are dispatched between segments 0 and 1 and combined after 1.
    """

    operators: Operators
    saved_bytes: float
    saved_expert_bytes: float
    has_experts: bool


def lower(
    tape: Tape, precision: Precision, recompute: Sequence[Recompute] = (), *, expert_load: float = 1.0
) -> Lowered:
    """Turn a recorded pass into kernels.

    Args:
        tape: forward calls and, after `Tape.backward`, gradient calls, on shape-only arrays; without the latter (as
            in decoding) nothing is kept.
        precision: number formats.
        recompute: which outputs are thrown away in the forward pass and recomputed in the backward pass.
        expert_load: rows that the rank's experts receive over those on the tape; its weights do not grow with them.

    Returns:
        The operators, in the order forward, replay, input gradient, weight gradient; and the bytes kept.
    """
    segments = _segments(tape.calls)

    def place(call: Call, phase: Phase, name: str) -> Place:
        moves_rows = _of_experts(call) or call.operator.kind == "combine"
        return Place(name, phase, segments[id(call)], precision, expert_load if moves_rows else 1.0)

    rows: list[Row] = []
    for call in tape.calls:
        rows += _forward(call, place(call, "F", call.name))
    kept, replayed = _kept(tape, precision, _recomputed(recompute))
    received = {id(y) for call in tape.calls if _of_experts(call) for y in call.outputs}
    of_experts = sum(size for at, size in kept.items() if at in received)
    for call in replayed:
        rows += _forward(call, place(call, "B", f"{call.name} (recomputed)"))
    rows += _backward(tape, lambda call, phase: place(call, phase, call.name))
    loaded = float(ceil(expert_load * of_experts))
    return Lowered(
        operators=Operators.of(rows),
        saved_bytes=sum(kept.values()) - of_experts + loaded,
        saved_expert_bytes=loaded,
        has_experts=any(call.operator.kind == "dispatch" for call in tape.calls),
    )


def _of_experts(call: Call) -> bool:
    """Whether a call gives rows that a rank's experts received from all ranks."""
    return call.operator.kind == "dispatch" or call.scope.endswith("experts")


def _segments(calls: Sequence[Call]) -> dict[int, int]:
    """Segment of each call: 0 up to the dispatch, 1 up to the combine, 2 after it."""
    segment, result = 0, {}
    for call in calls:
        if call.operator.kind == "dispatch":
            segment = 1
        result[id(call)] = segment
        if call.operator.kind == "combine":
            segment = 2
    return result


def _in_fp8(call: Call, precision: Precision) -> bool:
    """Gate and head stay in BF16, as do the absorbed up-projections and the weights of the sparse selection."""
    return precision.quantised and not call.scope.endswith(("gate", "head", "absorbed", "index_weights"))


# --- forward ----------------------------------------------------------------------------------------------------------


def _forward(call: Call, place: Place) -> list[Row]:
    return _FORWARD[call.operator.kind](call, place)


def _forward_product(call: Call, place: Place) -> list[Row]:
    family: Family = "grouped_gemm" if call.operator.kind == "grouped_gemm" else "gemm"
    fp8 = _in_fp8(call, place.precision)
    product = place.product(family, call.products[0], place.precision.gemm if fp8 else "bf16")
    if not fp8 or family == "grouped_gemm":  # expert operands arrive quantised: by the dispatch, by SwiGLU
        return [product]
    return [place.cast(call.inputs["x"].size), product]


def _forward_attention(call: Call, place: Place) -> list[Row]:
    kept, used = place.precision.attention_output_bytes, place.precision.activation_bytes
    scores = call.products[0]
    decodes = scores.m < scores.n and scores.m <= FEW_QUERIES
    product = place.attention("attention_decode" if decodes else "attention_forward", call, call.products, 1)
    if kept == used or decodes:
        return [product]
    size = call.outputs[0].size
    return [product, place.elementwise(size * used, size * kept, what="cast to be kept")]


def _forward_index(call: Call, place: Place) -> list[Row]:
    if not place.precision.quantised:
        return [place.index(call)]
    return [*(place.cast(call.inputs[name].size, what=f"cast {name}") for name in ("q", "k")), place.index(call)]


def _forward_elementwise(call: Call, place: Place) -> list[Row]:
    write = elements(call.outputs)
    read = write if call.operator.gathers else elements(call.inputs.values())
    out = (
        place.precision.quantised_bytes
        if call.operator.casts and place.precision.quantised
        else place.precision.activation_bytes
    )
    return [place.elementwise(read * place.precision.activation_bytes, write * out)]


def _forward_dispatch(call: Call, place: Place) -> list[Row]:
    """Quantise what is sent; sort what arrives by expert. The wire itself is not a kernel's time."""
    size = call.outputs[0].size * place.precision.dispatch_bytes
    arrive = replace(place, segment=1).elementwise(size, size, what="permute")
    if not place.precision.quantised:
        return [arrive]
    return [replace(place.even, segment=0).cast(call.inputs["x"].size), arrive]


def _forward_combine(call: Call, place: Place) -> list[Row]:
    size = call.inputs["rows"].size * place.precision.combine_bytes
    return [place.elementwise(size, size, what="unpermute")]


_FORWARD: dict[str, Callable[[Call, Place], list[Row]]] = {
    "gemm": _forward_product,
    "grouped_gemm": _forward_product,
    "attention": _forward_attention,
    "index": _forward_index,
    "elementwise": _forward_elementwise,
    "view": lambda *_: [],
    "dispatch": _forward_dispatch,
    "combine": _forward_combine,
}


# --- backward ---------------------------------------------------------------------------------------------------------


def _backward(tape: Tape, place_of: Callable[[Call, Phase], Place]) -> list[Row]:
    rows: list[Row] = []
    reached: set[int] = set()
    for gradient_call in tape.gradient_calls:
        call, gradient = gradient_call.call, gradient_call.gradient
        place = place_of(call, gradient.phase)
        rows += _GRADIENT[call.operator.kind](gradient_call, place)
        for name in gradient.serves:
            array = call.arguments[name]
            if gradient.phase == "B" and id(array) in reached:  # a second consumer: the gradients are added
                size = array.size * place.precision.activation_bytes
                rows.append(place.even.elementwise(2 * size, size, what="accumulate"))
            reached.add(id(array))
    return sorted(rows, key=lambda row: row.phase)


def _gradient_product(gradient_call: GradientCall, place: Place) -> list[Row]:
    call = gradient_call.call
    grouped = call.operator.kind == "grouped_gemm"
    fp8 = _in_fp8(call, place.precision)
    own: Dtype = place.precision.weight_gradient if place.phase == "W" else place.precision.gemm
    product = place.product("grouped_gemm" if grouped else "gemm", gradient_call.products[0], own if fp8 else "bf16")
    if not fp8:
        return [product]
    dy, x = gradient_call.dy.size, call.inputs["x"].size
    if place.phase == "B":
        weight = call.inputs["w"].size
        rows = [place.even.elementwise(weight, weight, what="transpose weight"), product]
        return rows if grouped else [place.cast(dy), *rows]
    casts = place if grouped else replace(place, phase="B")  # dense operands are cast when they appear
    return [
        casts.cast(x, read=1, what="transpose input"),
        casts.cast(dy, read=1 if grouped else BF16_BYTES, what="transpose gradient"),
        product,
    ]


def _gradient_attention(gradient_call: GradientCall, place: Place) -> list[Row]:
    call = gradient_call.call
    product = place.attention("attention_backward", call, gradient_call.products, 2)
    return [*_cast_back(place, call.outputs[0], place.precision.attention_output_bytes), product]


def _cast_back(place: Place, kept: Array, kept_bytes: float) -> list[Row]:
    """What was kept in fewer bytes becomes an ordinary activation again."""
    if kept_bytes == place.precision.activation_bytes:
        return []
    size = kept.size
    return [place.elementwise(size * kept_bytes, size * place.precision.activation_bytes, what="cast back")]


def _gradient_elementwise(gradient_call: GradientCall, place: Place) -> list[Row]:
    call, per_element, accumulator = (
        gradient_call.call,
        place.precision.activation_bytes,
        place.precision.gradient_bytes,
    )
    if call.operator.gathers:
        size = gradient_call.dy.size
        return [place.elementwise(size * (per_element + accumulator), size * accumulator)]
    made = [result for result in gradient_call.results if result is not gradient_call.dy]
    if not made:  # the gradient passes through unchanged
        return []
    known = {**call.arguments, "y": call.y, "dy": gradient_call.dy}
    wanted = [known.get(name) for name in gradient_call.gradient.needs]
    read = elements(value for value in wanted if isinstance(value, np.ndarray | Shape))
    if not call.operator.casts:
        return [place.elementwise(read * per_element, elements(made) * per_element)]
    out = place.precision.quantised_bytes if place.precision.quantised else per_element
    back = _cast_back(place, call.inputs["x"], place.precision.swiglu_input_bytes)
    return [*back, place.elementwise(read * per_element, elements(made) * out)]


def _gradient_dispatch(gradient_call: GradientCall, place: Place) -> list[Row]:
    """The gradient of a dispatch is a combine."""
    size = gradient_call.call.outputs[0].size * place.precision.combine_bytes
    return [place.elementwise(size, size, what="unpermute")]


def _gradient_combine(gradient_call: GradientCall, place: Place) -> list[Row]:
    """The gradient of a combine is a dispatch along the known routes."""
    size = gradient_call.call.inputs["rows"].size * place.precision.dispatch_bytes
    return [place.elementwise(size, size, what="permute")]


_GRADIENT: dict[str, Callable[[GradientCall, Place], list[Row]]] = {
    "gemm": _gradient_product,
    "grouped_gemm": _gradient_product,
    "attention": _gradient_attention,
    "elementwise": _gradient_elementwise,
    "view": lambda *_: [],
    "dispatch": _gradient_dispatch,
    "combine": _gradient_combine,
}


# --- what is kept and what is computed again --------------------------------------------------------------------------


def _recomputed(recompute: Sequence[Recompute]) -> Callable[[Call], bool]:
    def is_recomputed(call: Call) -> bool:
        name, place = call.operator.name, call.scope.rpartition("/")[2]
        return (
            ("norm" in recompute and name in {"rms_norm", "layer_norm"})
            or ("swiglu" in recompute and name in {"swiglu", "weighted_swiglu", "gelu"})
            or ("mla_up" in recompute and place in {"wq_b", "wkv_b", "rope"})
        )

    return is_recomputed


def _kept(
    tape: Tape, precision: Precision, is_recomputed: Callable[[Call], bool]
) -> tuple[dict[int, float], list[Call]]:
    """Bytes saved for the backward pass by array, and the forward calls that are replayed in it."""
    producer = {id(y): call for call in tape.calls for y in call.outputs}
    lasting = {id(call.arguments[name]) for call in tape.calls for name in call.operator.lasting}
    kept: dict[int, float] = {}
    replayed: set[int] = set()

    def need(array: Array, per_element: float) -> None:
        if id(array) in lasting or not isinstance(array, Shape):
            return
        call = producer.get(id(array))
        if call is None or not (call.operator.kind == "view" or is_recomputed(call)):
            kept[id(array)] = max(kept.get(id(array), 0.0), array.size * per_element)
        elif id(call) not in replayed:
            replayed.add(id(call))
            for name, value in call.inputs.items():
                need(value, per_element if call.operator.kind == "view" else _saved_bytes(call, name, precision))

    for gradient_call in tape.gradient_calls:
        call = gradient_call.call
        for name in gradient_call.gradient.needs:
            for array in call.outputs if name == "y" else (call.inputs.get(name),):
                need(array, _saved_bytes(call, name, precision))
    return kept, [call for call in tape.calls if id(call) in replayed]


def _saved_bytes(call: Call, name: str, precision: Precision) -> float:
    """Bytes per element in which a tensor is kept for one of its uses."""
    kind = call.operator.kind
    if kind in {"gemm", "grouped_gemm"} and name == "x":
        return precision.linear_input_bytes if _in_fp8(call, precision) else precision.activation_bytes
    if kind == "attention" and name == "y":
        return precision.attention_output_bytes
    if call.operator.casts and name == "x":
        return precision.swiglu_input_bytes
    return precision.activation_bytes
