"""Where a recorded pass is cut by messages: segments of kernels, and what is exchanged between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ffsim.model.exchanges import WIRES, ExchangeKind
from ffsim.model.execution import GroupName
from ffsim.model.kernels import FP32_BYTES, elements
from ffsim.model.precision import Precision
from ffsim.model.tape import Call, Tape


@dataclass(frozen=True, slots=True)
class Exchange:
    """A message in which all ranks of a group take part.

    Attributes:
        operation: what is done; a dispatch has a combine as its gradient, an all-gather a reduce-scatter.
        group: the ranks.
        size_bytes: the full buffer of a rank as nccl-tests count it: that of an all-reduce, the output of an
            all-gather, the input of a reduce-scatter, all that is sent in an all-to-all; of a ring what a rank sends in
            all its steps together. 0 for a dispatch or combine, whose bytes follow from the routing.
        beside: needed only at the end of the segment that follows it, so that it may run while that one computes.
    """

    operation: ExchangeKind
    group: GroupName
    size_bytes: float
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Cut:
    """What is exchanged between two segments; messages of one cut do not wait for one another.

    Attributes:
        forward: on the way from the earlier segment to the later.
        backward: when the gradient crosses from the later to the earlier.
    """

    forward: tuple[Exchange, ...] = ()
    backward: tuple[Exchange, ...] = ()


def passes_through(call: Call) -> bool:
    """Whether a message only brings near what is kept elsewhere: its result is not kept, but brought again."""
    name = call.operator.name
    return name in {"copy_in", "circulate"} or (name == "all_gather" and call.arguments["group"] == "tensor")


def rings(call: Call) -> bool:
    """Whether a call is attention over keys and values that come round a ring while it computes."""
    return call.arguments.get("zigzag") is not None


@dataclass(slots=True)
class Segments:
    """The segments of a tape.

    Attributes:
        of: segment of each forward call, by identity: that in which its kernels run.
        cuts: calls that are messages, by the cut they stand in.
    """

    of: dict[int, int] = field(default_factory=dict)
    cuts: list[list[Call]] = field(default_factory=list)

    @classmethod
    def find(cls, calls: Sequence[Call]) -> Segments:
        """Cut a tape at its messages.

        A message starts a new segment, unless no kernel has run since the last one and it does not carry what that one
        brought. Attention over a ring has a segment of its own.
        """
        found, computing, brought = cls(), True, set[int]()
        for call in calls:
            carries = any(id(array) in brought for array in call.inputs.values())
            if call.operator.name in WIRES:
                before = len(found.cuts)
                if computing or carries:
                    found.cuts.append([])
                    brought, computing = set(), False
                found.cuts[-1].append(call)
                brought.update(id(y) for y in call.outputs)
                # what a combine sends is put in order before it, what a dispatch brings after it
                found.of[id(call)] = before if call.operator.kind == "combine" else len(found.cuts)
                continue
            found.of[id(call)] = len(found.cuts)
            if call.operator.kind == "view":
                brought.update(id(y) for y in call.outputs if carries)
                continue
            computing = True
            if rings(call):
                found.cuts.append([])
                brought, computing = set(), False
        return found

    def exchanges(
        self, tape: Tape, precision: Precision, load_of: Callable[[Call], float], again: Sequence[Again]
    ) -> tuple[Cut, ...]:
        """The messages of every cut.

        Args:
            tape: forward calls and, where gradients are wanted, gradient calls.
            precision: bytes per element.
            load_of: rows of the rank over those on the tape, by call: experts of a loaded rank receive more.
            again: messages that bring something near once more in the backward pass.
        """
        forward: list[list[Exchange]] = [[] for _ in self.cuts]
        backward: list[list[Exchange]] = [[] for _ in self.cuts]
        reached = {id(gradient_call.call) for gradient_call in tape.gradient_calls}
        for number, calls in enumerate(self.cuts):
            for call in calls:
                there, back = WIRES[call.operator.name]
                beside, load = there == "ring", load_of(call)
                if there is not None:
                    forward[number].append(_exchange(call, there, precision, load, beside=beside))
                if back is not None and id(call) in reached:
                    size = 2 if beside else 1  # gradients travel with keys and values
                    message = _exchange(call, back, precision, load * size, beside=beside)
                    backward[number + 1 if beside else number].append(message)
        for each in again:
            there = WIRES[each.call.operator.name][0]
            if there is not None:
                beside = each.beside or there == "ring"
                backward[each.segment].append(_exchange(each.call, there, precision, load_of(each.call), beside=beside))
        return tuple(Cut(tuple(f), tuple(b)) for f, b in zip(forward, backward, strict=True))


@dataclass(frozen=True, slots=True)
class Again:
    """A message of the forward pass that is sent again in the backward pass.

    Attributes:
        call: the message.
        segment: whose gradients need what it brings.
        beside: whether they need it only for weight gradients, at the end.
    """

    call: Call
    segment: int
    beside: bool


def _exchange(call: Call, operation: ExchangeKind, precision: Precision, factor: float, *, beside: bool) -> Exchange:
    if operation in {"dispatch", "combine"}:
        return Exchange(operation, "expert", 0.0)
    group: GroupName = call.arguments["group"]
    size = elements(call.outputs if call.operator.name == "all_gather" else call.inputs.values())
    if operation == "ring":
        size *= call.outputs[0].shape[1] // call.inputs["k"].shape[1] - 1
    per_element = precision.activation_bytes
    if call.arguments.get("fp32"):
        per_element = FP32_BYTES
    elif group == "expert_tensor":
        per_element = precision.dispatch_bytes if operation == "all-gather" else precision.combine_bytes
    return Exchange(operation, group, factor * size * per_element, beside)
