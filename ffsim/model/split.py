"""Which ways of sharing a model among ranks there are."""

from __future__ import annotations

from collections.abc import Callable

from ffsim.model.execution import ContextExchange
from ffsim.model.spec import Gqa, ModelSpec

Trouble = tuple[str, str, str]


def check_split(
    spec: ModelSpec,
    *,
    tensor_parallel: int = 1,
    context_parallel: int = 1,
    expert_tensor_parallel: int = 1,
    sequence_parallel: bool = False,
    sequence_length: int,
    context_exchange: ContextExchange = "ring",
) -> list[Trouble]:
    """Everything about a model that so many ranks cannot share.

    Args:
        spec: the model.
        tensor_parallel: ranks that divide heads, inner widths and vocabulary, >= 1.
        context_parallel: ranks that divide every sequence, >= 1.
        expert_tensor_parallel: ranks that divide the width of each routed expert, >= 1.
        sequence_parallel: whether the tensor group divides the tokens between blocks.
        sequence_length: tokens of a whole sequence.
        context_exchange: how attention sees the tokens of other ranks.

    Returns:
        ``(plan key, what, fix)`` of each; empty if the split is legal.
    """
    tp, cp = tensor_parallel, context_parallel
    found = [*_tensor(spec, tp), *_experts(spec, tp, expert_tensor_parallel, sequence_parallel=sequence_parallel)]
    found += _context(spec, tp, cp, sequence_length, context_exchange)
    if sequence_parallel and sequence_length % cp == 0 and sequence_length // cp % tp:
        what = f"{sequence_length // cp} tokens of a sequence do not divide over {tp} ranks between blocks"
        fix = f"use {_nearest('tp', tp, lambda n: sequence_length // cp % n == 0)} or sequence_parallel: false"
        found.append(("sequence_parallel", what, fix))
    return found


def _tensor(spec: ModelSpec, tp: int) -> list[Trouble]:
    undivided = _undivided(spec, tp)
    if not undivided:
        return []
    fix = _fix("tp", tp, lambda n: not _undivided(spec, n))
    return [("tp", what, fix) for what in undivided]


def _undivided(spec: ModelSpec, tp: int) -> list[str]:
    """What of a model a tensor group of so many ranks cannot divide."""
    a, moe, found = spec.attention, spec.moe, []
    if a.heads % tp:
        found.append(f"{a.heads} heads do not divide over {tp} ranks")
    elif isinstance(a, Gqa) and a.kv_heads % tp and tp % a.kv_heads:
        found.append(f"{a.kv_heads} key/value heads neither divide over {tp} ranks nor each over some of them")
    widths = {
        "dense feed-forwards": spec.feed_forward if moe is None or moe.first_dense else 0,
        "shared experts": moe.shared * moe.width if moe else 0,
    }
    return found + [
        f"{name} {width} wide do not divide over {tp} ranks" for name, width in widths.items() if width % tp
    ]


def _experts(spec: ModelSpec, tp: int, etp: int, *, sequence_parallel: bool) -> list[Trouble]:
    moe, found = spec.moe, []
    if moe is None:
        return (
            [("etp", f"{etp} ranks to divide experts, of which the model has none", "leave etp out")] if etp > 1 else []
        )
    if tp > 1 and not sequence_parallel:
        what = f"{tp} tensor-parallel ranks would all send the same tokens to the experts"
        found.append(("sequence_parallel", what, "set sequence_parallel: true"))
    if moe.width % etp:
        what = f"experts {moe.width} wide do not divide over {etp} ranks"
        found.append(("etp", what, _fix("etp", etp, lambda n: moe.width % n == 0)))
    return found


def _context(spec: ModelSpec, tp: int, cp: int, length: int, exchange: ContextExchange) -> list[Trouble]:
    if cp == 1:
        return []
    a, found = spec.attention, []
    chunks = 2 if exchange == "ring" else 1
    if length % (chunks * cp):
        each = "two chunks for each" if exchange == "ring" else "one chunk for each"
        what = f"a sequence of {length} tokens does not divide into {each} of {cp} ranks"
        found.append(("cp", what, _fix("cp", cp, lambda n: n == 1 or length % (chunks * n) == 0)))
    if not isinstance(a, Gqa) and a.indexer is not None:
        found.append(("cp", "sparse attention selects keys among the whole sequence", "use cp 1"))
    if exchange == "all-to-all":
        heads = min(a.heads, a.kv_heads) if isinstance(a, Gqa) else a.heads
        if heads % (tp * cp):
            what = f"{heads} heads of keys and values do not divide over tp x cp = {tp * cp} ranks"
            found.append(("context_exchange", what, "use context_exchange: ring"))
    return found


def _fix(key: str, wanted: int, legal: Callable[[int], bool]) -> str:
    return f"use {_nearest(key, wanted, legal)}"


def _nearest(key: str, wanted: int, legal: Callable[[int], bool]) -> str:
    """The nearest legal numbers below and, up to twice as many, above."""
    below = next(n for n in range(wanted, 0, -1) if legal(n))
    above = next((n for n in range(wanted + 1, 2 * wanted + 1) if legal(n)), None)
    return f"{key} {below}" if above is None else f"{key} {below} or {above}"
