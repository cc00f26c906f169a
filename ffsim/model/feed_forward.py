"""The second half of a layer: dense feed-forward, or a mixture of routed and shared experts."""

from __future__ import annotations

from typing import Any

import numpy as np

from ffsim.model import functions as f
from ffsim.model.arrays import Array
from ffsim.model.exchanges import all_gather, entered, everyone, reduce_scatter, summed
from ffsim.model.execution import GroupName, execution
from ffsim.model.maps import biased, finished, projected
from ffsim.model.parameters import Arrays
from ffsim.model.spec import Moe
from ffsim.model.tape import scope


def feed_forward(p: Arrays, x: Array) -> Any:
    """Dense feed-forward."""
    return finished(p, "down", activated(p, entered(x)))


def activated(p: Arrays, x: Array, prefix: str = "") -> Any:
    """The inner half of a feed-forward: SwiGLU where the first matrix is twice as wide as the second, else GELU."""
    inner = projected(p, prefix + "up", x)
    gated = p[prefix + "up"].shape[0] == 2 * p[prefix + "down"].shape[1]
    return f.swiglu(inner) if gated else f.gelu(inner)


def route(moe: Moe, p: Arrays, x: Array) -> tuple[Any, Any]:
    """Gate: which experts each token goes to, and with what weights.

    Args:
        moe: the experts.
        p: ``gate`` and, for V3, ``gate_bias``.
        x: ``[n_tokens, hidden]``.

    Returns:
        ``[n_tokens, top_k]`` indices (best first) and weights.
    """
    with scope("gate"):
        scores = f.gate_scores(f.linear(x, p["gate"]), moe.scoring)
        indices = f.choose_experts(scores, p.get("gate_bias"), moe.top_k, moe.groups, moe.top_groups)
        return indices, f.routing_weights(scores, indices, moe.normalise, moe.scale)


def mixture(moe: Moe, p: Arrays, x: Array) -> Any:
    """Routed and shared experts. Source: arXiv 2401.06066, 2412.19437 s2.1.2."""
    flat = f.reshape(x, (-1, x.shape[-1]))
    return f.reshape(expert_sum(moe, p, flat, *route(moe, p, flat)), x.shape)


def expert_sum(moe: Moe, p: Arrays, flat: Array, indices: Array, weights: Array) -> Any:
    """Every token through the experts it was routed to and the shared ones: ``[n_tokens, hidden]`` to the same."""
    experts = indices.reshape(-1)
    order = np.argsort(experts, kind="stable")
    rows = f.dispatch(flat, order, moe.top_k)
    everyones = entered(flat, 0) if moe.shared else flat
    with scope("experts"):
        outer = routed_experts(p, rows, f.take_rows(weights, order), np.sort(experts))
    if moe.shared:
        with scope("shared"):
            shared = activated(p, everyones, "shared_")
            with scope("shared_down"):
                shared = f.linear(shared, p["shared_down"])
    y = f.combine(outer, order, moe.top_k)
    if not moe.shared:
        return y
    with scope("shared"):
        shared = biased(p, "shared_down", summed(shared, 0))
    return f.add(y, shared)


def routed_experts(p: Arrays, rows: Array, weights: Array, experts: Array) -> Any:
    """The routed experts on the rows they got: ``[n_rows, hidden]`` to the same.

    Args:
        p: ``experts_up [n_experts, 2 width, hidden]`` and ``experts_down``; with expert tensor parallelism a part of
            the width, for which the ranks put their rows together.
        rows: sorted by expert.
        weights: ``[n_rows]``, routing weights.
        experts: ``[n_rows]``, expert of each row.
    """
    group: GroupName = "expert_tensor"
    divided = execution().expert_tensor > 1
    if divided:
        experts = np.concatenate(everyone(group, experts))
        order = np.argsort(experts, kind="stable")
        rows, weights = all_gather(rows, 0, group), all_gather(weights, 0, group)
        rows, weights = f.sort_rows(rows, order), f.take_rows(weights, order)
    counts = np.bincount(experts, minlength=p["experts_up"].shape[0])
    inner = f.grouped_linear(rows, p["experts_up"], counts)
    outer = f.grouped_linear(f.weighted_swiglu(inner, weights), p["experts_down"], counts)
    if not divided:
        return outer
    return reduce_scatter(f.sort_rows(outer, np.argsort(order, kind="stable")), 0, group)
