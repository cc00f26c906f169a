"""Synthetic tokens with favourite experts, and what a router makes of them: loads, and nodes touched per token.

The choice is the reference model's own (`ffsim.model.functions`); only where tokens come from is made up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ffsim.model import functions as f
from ffsim.model.spec import Moe

Ints = np.ndarray[Any, Any]
Floats = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Population:
    """Where the tokens of one layer come from, and the gate they meet.

    A hidden state is 1 in its first dimension, which all tokens share, and topic plus noise in the others. A gate's
    first column is therefore how popular its experts are with everybody, the rest what topics make of them.

    Attributes:
        gate: ``[n_experts, hidden]``.
        topics: ``[n_topics, hidden - 1]``.
        topic_share: ``[n_topics]`` share of the tokens, adds up to 1.
        noise: standard deviation of a token around its topic.
    """

    gate: Floats
    topics: Floats
    topic_share: Floats
    noise: float

    def draw(self, n_tokens: int, rng: np.random.Generator) -> Floats:
        """``[n_tokens, hidden]`` hidden states."""
        topic = rng.choice(len(self.topics), size=n_tokens, p=self.topic_share)
        own = self.topics[topic] + self.noise * rng.standard_normal((n_tokens, self.topics.shape[1]))
        return np.concatenate([np.ones((n_tokens, 1)), own], axis=1)


def population(
    n_experts: int,
    rng: np.random.Generator,
    *,
    popularity: float = 0.5,
    topics: int = 16,
    zipf: float = 1.0,
    noise: float = 1.0,
    hidden: int = 33,
) -> Population:
    """Draw a population with a stated skew.

    Args:
        n_experts: routed experts.
        rng: source of everything random.
        popularity: standard deviation of the experts' common logits; e to its power is the spread of a softmax gate's
            average scores, which are log-normal. 0 for experts that are alike but for topics.
        topics: clusters of tokens.
        zipf: topic t (from 1) has a share proportional to ``t^-zipf``. 0 for topics of equal size.
        noise: standard deviation of a token around its topic, where topics have 1 around their common mean.
        hidden: width of hidden states; topics and noise together move logits by ``sqrt(1 + noise^2)``.
    """
    gate = rng.standard_normal((n_experts, hidden)) / np.sqrt(hidden - 1)
    gate[:, 0] = popularity * rng.standard_normal(n_experts)
    share = np.arange(1.0, topics + 1) ** -zipf
    return Population(
        gate=gate, topics=rng.standard_normal((topics, hidden - 1)), topic_share=share / share.sum(), noise=noise
    )


def choose(moe: Moe, scores: Floats, bias: Floats | None = None) -> Ints:
    """``[n_tokens, top_k]`` experts that the reference model's gate takes, from ``[n_tokens, n_experts]`` scores."""
    if bias is None and moe.bias:
        bias = np.zeros(moe.routed)
    chosen: Ints = f.choose_experts(scores, bias, moe.top_k, moe.groups, moe.top_groups)
    return chosen


def expert_loads(indices: Ints, n_experts: int) -> Ints:
    """``[n_tokens, top_k]`` choices to ``[n_experts]`` tokens each expert gets; they add up to tokens times top_k."""
    return np.bincount(indices.ravel(), minlength=n_experts)


def zipf_loads(n_layers: int, n_experts: int, exponent: float, rng: np.random.Generator) -> Floats:
    """Loads that fall with the rank of an expert as ``rank^-exponent``, ranks dealt out anew in every layer.

    Returns:
        ``[n_layers, n_experts]`` with mean 1.
    """
    loads = np.arange(1.0, n_experts + 1) ** -exponent
    return rng.permuted(np.tile(loads / loads.mean(), (n_layers, 1)), axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsTouched:
    """How the experts of a token spread over equal parts (nodes, ranks) of all experts.

    Attributes:
        per_token: parts that hold an expert of a token, on average.
        most: of any token.
        experts_per_part: experts of a token on a part that holds any, on average.
        busiest: share of the tokens that touch the part most in demand.
    """

    per_token: float
    most: int
    experts_per_part: float
    busiest: float


def parts_touched(indices: Ints, n_experts: int, parts: int) -> PartsTouched:
    """Count the nodes (or ranks) that tokens touch, by simulation; `Routing.touched` is the closed form without skew.

    Args:
        indices: ``[n_tokens, top_k]``, from `choose`.
        n_experts: routed experts, in order over the parts.
        parts: a divisor of the experts.

    Source: arXiv 2412.19437 s2.1.2 and s3.2.2: at most 4 of 8 nodes a token.

    >>> parts_touched(np.array([[0, 1, 7], [4, 5, 6]]), n_experts=8, parts=2)
    PartsTouched(per_token=1.5, most=2, experts_per_part=2.0, busiest=1.0)
    """
    n_tokens, top_k = indices.shape
    touched = np.zeros((n_tokens, parts), dtype=bool)
    np.put_along_axis(touched, indices // (n_experts // parts), values=True, axis=1)
    each = touched.sum(axis=1)
    return PartsTouched(
        per_token=float(each.mean()),
        most=int(each.max()),
        experts_per_part=n_tokens * top_k / int(each.sum()),
        busiest=float(touched.mean(axis=0).max()),
    )
