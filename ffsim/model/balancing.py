"""How routers are kept even: the bias of DeepSeek-V3 and the auxiliary loss before it, as dynamics without a model.

Tokens are drawn from a fixed population, routed by the reference model's gate, and only the balancing acts on the gate:
no language-model loss pulls the other way. What balance costs shows as `Balancing.quality_frac`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ffsim.model import functions as f
from ffsim.model.routing_load import Population, choose, expert_loads
from ffsim.model.spec import Moe
from ffsim.model.tape import recording

Floats = np.ndarray[Any, Any]
Ints = np.ndarray[Any, Any]
Method = Literal["bias", "auxiliary loss"]

BIAS_RATE = 0.001  # arXiv 2412.19437 s4.2


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Balancing:
    """Loads while a router is being balanced; a step's loads come before its update.

    Attributes:
        method: what balances.
        rate: its step.
        loads: ``[n_steps, n_layers, n_experts]`` tokens each expert got.
        quality_frac: ``[n_steps, n_layers]`` original scores of the chosen experts over those of the experts that the
            original gate would have chosen; 1 at first.
    """

    method: Method
    rate: float
    loads: Ints
    quality_frac: Floats

    @property
    def max_over_mean(self) -> Floats:
        """``[n_steps, n_layers]`` load of the busiest expert over the mean."""
        result: Floats = self.loads.max(axis=2) / self.loads.mean(axis=2)
        return result

    def rows(self) -> Iterator[dict[str, float]]:
        """One row per step and layer."""
        uneven = self.max_over_mean
        for step, layer in np.ndindex(uneven.shape):
            yield {
                "step": step,
                "layer": layer,
                "max_over_mean": float(uneven[step, layer]),
                "quality_frac": float(self.quality_frac[step, layer]),
            }


def balance(
    moe: Moe,
    layers: Sequence[Population],
    method: Method,
    rate: float,
    *,
    n_steps: int,
    n_tokens: int,
    rng: np.random.Generator,
) -> Balancing:
    """Route fresh tokens step after step, with an update after each.

    Args:
        moe: the router.
        layers: tokens and initial gate of each layer.
        method: ``bias``: `updated_bias`; ``auxiliary loss``: gradient descent of the gate on `balance_loss`.
        rate: of the bias per step (`BIAS_RATE`), or learning rate times the weight of the loss.
        n_steps: steps.
        n_tokens: tokens per step and layer. Loads scatter by ``sqrt(n_experts / (n_tokens top_k))`` of their mean,
            which no balancing removes.
        rng: source of the tokens; each layer has its own child.
    """
    loads = np.empty((n_steps, len(layers), moe.routed), dtype=np.int64)
    quality = np.empty((n_steps, len(layers)))
    for layer, (tokens, child) in enumerate(zip(layers, rng.spawn(len(layers)), strict=True)):
        gate, bias = tokens.gate, np.zeros(moe.routed)
        for step in range(n_steps):
            x = tokens.draw(n_tokens, child)
            original: Floats = f.gate_scores(f.linear(x, tokens.gate), moe.scoring)
            scores = original if method == "bias" else f.gate_scores(f.linear(x, gate), moe.scoring)
            chosen = choose(moe, scores, bias if method == "bias" else None)
            loads[step, layer] = expert_loads(chosen, moe.routed)
            quality[step, layer] = _total(original, chosen) / _total(original, choose(moe, original))
            if method == "bias":
                bias = updated_bias(bias, loads[step, layer], rate)
            else:
                gate = gate - rate * loss_gradient(moe, gate, x, loads[step, layer])
    return Balancing(method=method, rate=rate, loads=loads, quality_frac=quality)


def _total(scores: Floats, chosen: Ints) -> float:
    return float(np.take_along_axis(scores, chosen, axis=1).sum())


def updated_bias(bias: Floats, loads: Ints, rate: float = BIAS_RATE) -> Floats:
    """Raise the bias of experts below the mean load, lower it above: ``b + rate * sign(mean - load)``.

    Args:
        bias: ``[n_experts]``, in units of scores.
        loads: ``[n_experts]`` tokens each expert got.
        rate: what a bias moves by, in units of scores.

    Source: arXiv 2408.15664 algorithm 1; 2412.19437 s2.1.2.

    >>> updated_bias(np.zeros(3), np.array([5, 2, 2])).tolist()
    [-0.001, 0.001, 0.001]
    """
    result: Floats = bias + rate * np.sign(loads.mean() - loads)
    return result


def balance_loss(scores: Floats, loads: Ints) -> float:
    """``sum_i f_i P_i``: f the load over its mean, P the mean normalised score; 1 where either is even.

    Args:
        scores: ``[n_tokens, n_experts]``, of the gate.
        loads: ``[n_experts]`` tokens each expert got.

    Source: arXiv 2401.06066 eq. 12 to 14 and 2412.19437 eq. 17 to 20, here over a batch, without its weight alpha.
    """
    shares = scores / scores.sum(axis=1, keepdims=True)
    return float(loads / loads.mean() @ shares.mean(axis=0))


def loss_gradient(moe: Moe, gate: Floats, x: Floats, loads: Ints) -> Floats:
    """Gradient of `balance_loss` with respect to the gate, loads held fixed: ``[n_experts, hidden]``."""
    with recording() as tape:
        scores = f.gate_scores(f.linear(x, gate), moe.scoring)
    total = scores.sum(axis=1, keepdims=True)
    pull = loads / loads.mean()
    d_scores = (pull - scores @ pull[:, None] / total) / total / len(x)
    gradient: Floats = tape.backward([(scores, d_scores)])[gate]
    return gradient
