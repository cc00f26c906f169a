"""From a recorded pass to the kernels a GPU runs and the bytes it must keep.

Under a precision recipe quantising casts appear, recomputed operators are replayed in the backward pass, and whatever
the gradient functions ask for is added up as activation memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from ffsim.model.arrays import Array, Shape
from ffsim.model.exchanges import ExchangeKind
from ffsim.model.execution import GroupName
from ffsim.model.kernels import BF16_BYTES, FP32_BYTES, Place, elements
from ffsim.model.operators import Family, Operators, Row
from ffsim.model.precision import Dtype, Precision
from ffsim.model.retention import Recompute, Retained, held_for_weights, in_fp8, retained
from ffsim.model.segments import Cut, Exchange, Segments, rings
from ffsim.model.tape import Call, GradientCall, Phase, Tape

__all__ = ["Cut", "Exchange", "ExchangeKind", "GroupName", "Lowered", "Recompute", "lower"]

FEW_QUERIES = 16  # new tokens of a sequence up to which attention runs as a decoding kernel


@dataclass(frozen=True, slots=True)
class Lowered:
    """What one piece of a model costs per micro-batch.

    Attributes:
        operators: the kernels of forward, recomputation of the whole piece (phase R), input and weight gradient.
        saved_bytes: what must be kept from the forward to the backward pass.
        saved_expert_bytes: of these, what grows with the tokens that the rank's experts receive.
        has_experts: whether tokens are dispatched to experts and combined.
        cuts: what is exchanged between the segments, of which there is one more.
        replayed_bytes: what a recomputation of the whole piece keeps until its backward pass is done.
        weight_bytes: what waits for the weight gradients once the input gradients are done, where they are put off.
    """

    operators: Operators
    saved_bytes: float
    saved_expert_bytes: float
    has_experts: bool
    cuts: tuple[Cut, ...] = ()
    replayed_bytes: float = 0.0
    weight_bytes: float = 0.0


def lower(
    tape: Tape,
    precision: Precision,
    recompute: Sequence[Recompute] = (),
    *,
    expert_load: float = 1.0,
    fused_biases: bool = False,
) -> Lowered:
    """Turn a recorded pass into kernels.

    Args:
        tape: forward calls and, after `Tape.backward`, gradient calls, on shape-only arrays; without the latter (as
            in decoding) nothing is kept.
        precision: number formats.
        recompute: which outputs are thrown away in the forward pass and recomputed in the backward pass.
        expert_load: rows that the rank's experts receive over those on the tape; its weights do not grow with them.
        fused_biases: biases are added by the product before them or the pass after them, not by a pass of their own.

    Returns:
        The operators, in the order forward, recomputed forward, replay of parts, input gradient, weight gradient; the
        messages between them; and the bytes kept.
    """
    segments = Segments.find(tape.calls)
    found = retained(tape, precision, recompute, segments)
    run = _Run(segments, precision, expert_load)
    calls = [call for call in tape.calls if not (fused_biases and call.operator.name == "add_bias")]
    rows = run.forward(calls, "F")
    if "layer" in recompute:
        rows += run.forward(calls, "R")
    rows += run.replay(found)
    rows += _backward(tape, lambda call, phase: run.place(call, phase, call.name))
    kept, of_experts = _kept_bytes(tape, found, expert_load)
    lowered = Lowered(
        operators=Operators.of(rows),
        saved_bytes=kept,
        saved_expert_bytes=of_experts,
        has_experts=any(call.operator.kind == "dispatch" for call in tape.calls),
        cuts=segments.exchanges(tape, precision, run.load_of, found.again),
        weight_bytes=held_for_weights(tape, precision),
    )
    if "layer" not in recompute:
        return lowered
    first = sum(found.kept[at] for at in found.inputs)
    return replace(lowered, saved_bytes=first, saved_expert_bytes=0.0, replayed_bytes=kept)


@dataclass(frozen=True, slots=True)
class _Run:
    """What places the calls of a tape in the table."""

    segments: Segments
    precision: Precision
    expert_load: float

    def load_of(self, call: Call) -> float:
        return self.expert_load if _of_experts(call) or call.operator.kind == "combine" else 1.0

    def place(self, call: Call, phase: Phase, name: str) -> Place:
        return Place(name, phase, self.segments.of[id(call)], self.precision, self.load_of(call))

    def forward(self, calls: Sequence[Call], phase: Phase) -> list[Row]:
        suffix = " (recomputed)" if phase == "R" else ""
        return [row for call in calls for row in _forward(call, self.place(call, phase, call.name + suffix))]

    def replay(self, found: Retained) -> list[Row]:
        """Calls that run again in their own segment, or before the message that brings what they give."""
        sent = {id(x): each.segment for each in found.again for x in each.call.inputs.values()}
        rows: list[Row] = []
        for call in found.replayed:
            at = self.place(call, "B", f"{call.name} (recomputed)")
            later = [sent[id(y)] + 1 for y in call.outputs if id(y) in sent]
            rows += _forward(call, replace(at, segment=max([at.segment, *later])))
        return rows


def _kept_bytes(tape: Tape, found: Retained, expert_load: float) -> tuple[float, float]:
    """Bytes kept in all, and of these what grows with the rows of experts, which a loaded rank has more of."""
    received = {id(y) for call in tape.calls if _of_experts(call) for y in call.outputs}
    of_experts = sum(size for at, size in found.kept.items() if at in received)
    loaded = float(ceil(expert_load * of_experts))
    return sum(found.kept.values()) - of_experts + loaded, loaded


def _of_experts(call: Call) -> bool:
    """Whether a call gives rows that a rank's experts received from all ranks."""
    return call.operator.kind == "dispatch" or call.scope.endswith("experts")


# --- forward ----------------------------------------------------------------------------------------------------------


def _forward(call: Call, place: Place) -> list[Row]:
    return _FORWARD[call.operator.kind](call, place)


def _forward_product(call: Call, place: Place) -> list[Row]:
    family: Family = "grouped_gemm" if call.operator.kind == "grouped_gemm" else "gemm"
    fp8 = in_fp8(call, place.precision)
    product = place.product(family, call.products[0], place.precision.gemm if fp8 else place.precision.product)
    if not fp8 or family == "grouped_gemm":  # expert operands arrive quantised: by the dispatch, by SwiGLU
        return [product]
    return [place.cast(call.inputs["x"].size), product]


def _forward_batched(call: Call, place: Place) -> list[Row]:
    return [place.batched(call.products[0])]


def _forward_convolution(call: Call, place: Place) -> list[Row]:
    row = place.convolution(call.products[0], (call.inputs["x"], call.inputs["w"]), call.y)
    return [*_turned(call, place, call.inputs["x"]), row, *_turned(call, place, call.y)]


def _turned(call: Call, place: Place, *images: Array) -> list[Row]:
    """Passes that bring images into the layout that convolutions want, or back."""
    if call.arguments["layout"] == "nhwc":
        return []
    sizes = [image.size * place.precision.activation_bytes for image in images]
    return [place.elementwise(size, size, what="turn layout") for size in sizes]


def _forward_attention(call: Call, place: Place) -> list[Row]:
    kept, used = place.precision.attention_output_bytes, place.precision.activation_bytes
    scores, size = call.products[0], call.outputs[0].size
    decodes = scores.m < scores.n and scores.m <= FEW_QUERIES and not rings(call)
    product = place.attention("attention_decode" if decodes else "attention_forward", call, call.products, 1)
    rows = [product, *_merges(call, place, (size,))]
    if kept == used or decodes:
        return rows
    return [*rows, place.elementwise(size * used, size * kept, what="cast to be kept")]


def _merges(call: Call, place: Place, sizes: Sequence[float]) -> list[Row]:
    """What each step of a ring after the first adds, in FP32, to what those before it have found."""
    if not rings(call):
        return []
    steps, per_element = call.arguments["zigzag"][1] - 1, place.precision.activation_bytes
    size = steps * sum(sizes)
    row = place.elementwise(size * (per_element + FP32_BYTES), size * FP32_BYTES, what="merge")
    return [replace(row, kernels=steps * len(sizes))]


def _forward_index(call: Call, place: Place) -> list[Row]:
    if not place.precision.quantised:
        return [place.index(call)]
    return [*(place.cast(call.inputs[name].size, what=f"cast {name}") for name in ("q", "k")), place.index(call)]


def _forward_elementwise(call: Call, place: Place) -> list[Row]:
    write, per_element = elements(call.outputs), place.precision.activation_bytes
    out = place.precision.quantised_bytes if call.operator.casts and place.precision.quantised else per_element
    if call.operator.gathers:
        return [place.elementwise(write * per_element, write * out)]
    drawn = elements(call.inputs[name] for name in call.operator.masks)
    read = elements(call.inputs.values()) - drawn
    return [place.elementwise(read * per_element, write * out + drawn)]


def _forward_dispatch(call: Call, place: Place) -> list[Row]:
    """Quantise what is sent; sort what arrives by expert. The wire itself is not a kernel's time."""
    size = call.outputs[0].size * place.precision.dispatch_bytes
    arrive = place.elementwise(size, size, what="permute")
    if not place.precision.quantised:
        return [arrive]
    return [replace(place.even, segment=place.segment - 1).cast(call.inputs["x"].size), arrive]


def _forward_combine(call: Call, place: Place) -> list[Row]:
    size = call.inputs["rows"].size * place.precision.combine_bytes
    return [place.elementwise(size, size, what="unpermute")]


_FORWARD: dict[str, Callable[[Call, Place], list[Row]]] = {
    "gemm": _forward_product,
    "grouped_gemm": _forward_product,
    "batched": _forward_batched,
    "convolution": _forward_convolution,
    "attention": _forward_attention,
    "index": _forward_index,
    "elementwise": _forward_elementwise,
    "view": lambda *_: [],
    "exchange": lambda *_: [],
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
    fp8 = in_fp8(call, place.precision)
    own: Dtype = place.precision.weight_gradient if place.phase == "W" else place.precision.gemm
    family: Family = "grouped_gemm" if grouped else "gemm"
    product = place.product(family, gradient_call.products[0], own if fp8 else place.precision.product)
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


def _gradient_convolution(gradient_call: GradientCall, place: Place) -> list[Row]:
    call, dy, result = gradient_call.call, gradient_call.dy, gradient_call.results[0]
    product = gradient_call.products[0]
    if place.phase == "B":
        row = place.convolution(product, (dy, call.inputs["w"]), result)
        return [*_turned(call, place, dy), row, *_turned(call, place, result)]
    return [*_turned(call, place, dy, call.inputs["x"]), place.convolution(product, (dy, call.inputs["x"]), result)]


def _gradient_attention(gradient_call: GradientCall, place: Place) -> list[Row]:
    call = gradient_call.call
    product = place.attention("attention_backward", call, gradient_call.products, 2)
    ranks = call.arguments["zigzag"][1] if rings(call) else 1
    merges = _merges(call, place, [call.inputs["q"].size, *(call.inputs[name].size / ranks for name in ("k", "v"))])
    return [*_cast_back(place, call.outputs[0], place.precision.attention_output_bytes), product, *merges]


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
    masks = call.operator.masks
    wanted = [known.get(name) for name in gradient_call.gradient.needs if name not in masks]
    read = elements(value for value in wanted if isinstance(value, np.ndarray | Shape))
    if not call.operator.casts:
        drawn = elements(call.inputs[name] for name in masks)
        return [place.elementwise(read * per_element + drawn, elements(made) * per_element)]
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
    "batched": lambda gradient_call, place: [place.batched(gradient_call.products[0])],
    "convolution": _gradient_convolution,
    "attention": _gradient_attention,
    "elementwise": _gradient_elementwise,
    "view": lambda *_: [],
    "exchange": lambda *_: [],
    "dispatch": _gradient_dispatch,
    "combine": _gradient_combine,
}
