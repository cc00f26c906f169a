"""How unevenly tokens go to experts, and what that makes of the busiest rank's rows and of expert traffic.

A step is simulated with one expert layer for all, so loads are summed up over layers: every layer's exchange waits for
its busiest rank, so times add up layer by layer, and the mean over layers of the busiest rank's load stands for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ffsim.collectives import Reach, Routing
from ffsim.config import Source
from ffsim.errors import Problem, ScenarioError
from ffsim.model.eplb import ExpertPlacement, busiest_over_mean, contiguous, policy, rebalance
from ffsim.model.routing_load import zipf_loads
from ffsim.model.spec import CnnSpec, ModelSpec
from ffsim.training.spec import ExpertLoadSpec

Floats = np.ndarray[Any, Any]

HEADER = ["layer", "expert", "tokens"]


@dataclass(frozen=True, slots=True, eq=False)
class ExpertTokens:
    """Tokens that every expert of some layers gets.

    Attributes:
        loads: ``[n_layers, n_experts]``, in any unit.
        source: where they come from.
    """

    loads: Floats
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLoad:
    """What uneven experts make of one expert-parallel group, mean over layers.

    Attributes:
        busiest_over_mean: rows on the busiest rank over the mean: what a layer waits for.
        fullest_over_mean: rows on a rank over the mean, added up over the layers of a stage, at their largest: what
            must fit in memory.
        reach: how far tokens get, and how many meet on the fullest node and rank.
    """

    busiest_over_mean: float
    fullest_over_mean: float
    reach: Reach


@lru_cache(maxsize=256)
def expert_load(
    tokens: ExpertTokens,
    placing: ExpertLoadSpec,
    routing: Routing,
    n_nodes: int,
    gpus_per_node: int,
    layers_per_stage: int,
) -> ExpertLoad:
    """Place experts on the ranks of a group and sum up how unevenly they are used.

    Args:
        tokens: loads of the experts.
        placing: how they are placed.
        routing: how tokens choose them.
        n_nodes: nodes of the group.
        gpus_per_node: its ranks on each.
        layers_per_stage: neighbouring layers whose activations meet in the memory of a rank.

    Domain: experts of one rank share its rows evenly; loads are those of a mean micro-batch, so the scatter from one
    to the next, which ``assumptions.expert_load`` stands for, comes on top where experts are placed this well.
    """
    n_ranks = n_nodes * gpus_per_node
    placement = _place(tokens.loads, placing, routing, n_nodes, n_ranks)
    of_ranks = placement.part_loads(tokens.loads, n_ranks)
    of_ranks = of_ranks / of_ranks.mean(axis=1, keepdims=True)
    if placing.placement == "eplb" and policy(routing.groups, n_nodes) == "global":
        routing = Routing(experts=routing.experts, top_k=routing.top_k)  # groups are torn apart and limit no nodes
    ranks = routing.touched_unevenly(of_ranks)
    nodes = routing.touched_unevenly(of_ranks.reshape(-1, n_nodes, gpus_per_node).mean(axis=2))
    of_nodes = ranks.reshape(-1, n_nodes, gpus_per_node).sum(axis=2)
    together = sliding_window_view(of_ranks, min(layers_per_stage, len(of_ranks)), axis=0)
    return ExpertLoad(
        busiest_over_mean=float(busiest_over_mean(of_ranks).mean()),
        fullest_over_mean=float(together.mean(axis=-1).max()),
        reach=Reach(
            nodes=float(nodes.sum(axis=1).mean()),
            ranks=float(ranks.sum(axis=1).mean()),
            fullest_node=float(nodes.max(axis=1).mean()),
            fullest_node_ranks=float(of_nodes.max(axis=1).mean()),
            fullest_rank=float(ranks.max(axis=1).mean()),
        ),
    )


def _place(loads: Floats, placing: ExpertLoadSpec, routing: Routing, n_nodes: int, n_ranks: int) -> ExpertPlacement:
    if placing.placement == "contiguous":
        return contiguous(*loads.shape)
    return rebalance(loads, loads.shape[1] + placing.redundant_experts, routing.groups, n_nodes, n_ranks)


def load_expert_tokens(spec: ExpertLoadSpec, model: ModelSpec | CnnSpec, near: Path) -> ExpertTokens:
    """Read or draw the loads that a workload states.

    Args:
        spec: what it says.
        model: whose experts they are.
        near: folder of the workload file; a file is looked for there first, then in the working directory.

    Raises:
        ScenarioError: the model has no experts, or everything that is wrong with the file.
    """
    moe = model.moe
    if moe is None:
        raise ScenarioError(Problem(what=f"{model.title} has no experts", fix="leave `expert_loads:` out"))
    layers = range(moe.first_dense, model.layers + model.mtp_layers)
    if spec.file is not None:
        path = near / spec.file if (near / spec.file).exists() else Path(spec.file)
        return read_expert_tokens(path, layers, moe.routed)
    assert spec.zipf is not None
    loads = zipf_loads(len(layers), moe.routed, spec.zipf, np.random.default_rng(spec.seed))
    what = f"drawn: rank^-{spec.zipf:g} in every layer, seed {spec.seed}"
    return ExpertTokens(loads, Source(ref=what, kind="assumed", status="assumed"))


def read_expert_tokens(path: Path, layers: Sequence[int], n_experts: int) -> ExpertTokens:
    """Read a CSV file with the columns ``layer,expert,tokens``, counted over any number of tokens.

    Args:
        path: the file. Layers are numbered from 0, dense ones and MTP modules included; those it leaves out are taken
            to be like the others, but a layer it names needs every expert once.
        layers: layers of the model that have experts.
        n_experts: routed experts of each.

    Raises:
        ScenarioError: everything that is wrong with it, with line numbers.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ScenarioError(
            Problem(where=str(path), what=f"cannot be read: {error}", fix="name a CSV file with expert loads")
        ) from error
    rows = [[cell.strip() for cell in line.split(",")] for line in lines]
    if rows[:1] != [HEADER]:
        what = f"got {lines[0] if lines else ''!r} for the names of the columns"
        raise ScenarioError(Problem(where=f"{path}:1", what=what, fix=f"use {','.join(HEADER)}"))
    found: dict[int, dict[int, float]] = {}
    problems: list[Problem] = []
    for number, cells in enumerate(rows[1:], 2):
        what = _enter(cells, found, layers, n_experts) if any(cells) else ""
        if what:
            problems.append(Problem(where=f"{path}:{number}", what=what))
    problems += [Problem(where=str(path), what=what) for what in _gaps(found, n_experts)]
    if not found and not problems:
        problems.append(Problem(where=str(path), what="no loads", fix="add a row for every expert of a layer"))
    if problems:
        raise ScenarioError(problems)
    loads = np.array([[found[layer][expert] for expert in range(n_experts)] for layer in sorted(found)])
    return ExpertTokens(loads, Source(ref=path.name, kind="measured", status="measured"))


def _enter(cells: Sequence[str], found: dict[int, dict[int, float]], layers: Sequence[int], n_experts: int) -> str:
    """Enter one row; what is wrong with it, if anything."""
    try:
        layer, expert = int(cells[0]), int(cells[1])
        (tokens,) = map(float, cells[2:])
    except (ValueError, IndexError):
        return f"got {','.join(cells)!r}, expected two whole numbers and a number of tokens"
    if layer not in layers:
        return f"layer {layer} has no experts, layers {layers[0]} to {layers[-1]} do"
    if not 0 <= expert < n_experts:
        return f"expert {expert} of {n_experts}, counted from 0"
    if not 0 <= tokens < float("inf"):
        return f"{cells[2]} tokens for an expert: must be 0 or more and finite"
    if expert in found.setdefault(layer, {}):
        return f"layer {layer}, expert {expert} stands here a second time"
    found[layer][expert] = tokens
    return ""


def _gaps(found: dict[int, dict[int, float]], n_experts: int) -> Iterator[str]:
    """What is wrong with whole layers."""
    for layer, tokens in sorted(found.items()):
        missing = [str(expert) for expert in range(n_experts) if expert not in tokens]
        if missing:
            first = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            yield f"layer {layer} lacks {len(missing)} of {n_experts} experts: {first}"
        elif not sum(tokens.values()):
            yield f"layer {layer} has no tokens at all"
