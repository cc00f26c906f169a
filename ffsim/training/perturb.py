"""What is not as it should be: slow GPUs, slow pipeline ranks, and chance in how long kernels take.

Slow links are a matter of the topology (`ffsim.training.inputs.wire`). Factors hold for computing and for the optimizer
step; what a GPU does for messages goes on at its usual pace.

At depth ``full`` every GPU has its own factor and its own chance. At depth ``folded`` one GPU stands for all of its
pipeline rank, so that all of them are taken to be as slow as the slowest: never faster than in truth. Chance has no
such stand-in: what it costs is that groups wait for whoever is last, which one GPU cannot show, so that only ``full``
takes it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ffsim.engine import TaskGraph
from ffsim.errors import ModelDomainError, Problem
from ffsim.training.blocks import ComputeSlot, OptimizerSlot
from ffsim.training.inputs import Inputs
from ffsim.training.layout import Layout
from ffsim.training.program import Program

Ints = np.ndarray[Any, Any]
Floats = np.ndarray[Any, Any]


def check_perturbations(inputs: Inputs, layout: Layout) -> None:
    """Refuse factors of GPUs and ranks that take no part.

    Raises:
        ScenarioError: all of them.
    """
    slow, document = inputs.spec.perturbations, inputs.document
    first, last = int(layout.placement.min()), int(layout.placement.max())
    for number, gpu in enumerate(slow.slow_gpus):
        if not (layout.placement == gpu.gpu).any():
            place = ("perturbations", "slow_gpus", number, "gpu")
            document.report(place, f"GPU {gpu.gpu:,} takes no part in the job", f"use one of {first:,} to {last:,}")
    for number, rank in enumerate(slow.slow_ranks):
        if rank.pipeline_rank >= layout.pp:
            place = ("perturbations", "slow_ranks", number, "pipeline_rank")
            document.report(place, f"there are {layout.pp} pipeline ranks", f"use one of 0 to {layout.pp - 1}")
    document.raise_problems()


def check_jitter(inputs: Inputs) -> None:
    """Refuse chance where one GPU stands for many.

    Raises:
        ModelDomainError: there is some.
    """
    if jitter_sigma(inputs):
        place = inputs.document.place(("perturbations", "jitter"))
        what = "groups wait for the slowest of their GPUs, and here one GPU stands for all of them"
        fix = "use --depth full, or leave the jitter out"
        raise ModelDomainError(Problem(where=str(place), path="perturbations.jitter", what=what, fix=fix))


def jitter_sigma(inputs: Inputs) -> float:
    """Deviation of the logarithm of computing times."""
    jitter = inputs.spec.perturbations.jitter
    return 0.0 if jitter is None else jitter.sigma


def paces(inputs: Inputs, layout: Layout) -> Floats:
    """``[pp, members]`` how many times as long every GPU computes."""
    found = np.ones((layout.pp, layout.members))
    for gpu in inputs.spec.perturbations.slow_gpus:
        found[layout.placement == gpu.gpu] *= gpu.factor
    for rank in inputs.spec.perturbations.slow_ranks:
        found[rank.pipeline_rank : rank.pipeline_rank + 1] *= rank.factor  # another plan may have fewer
    return found


def slowest(inputs: Inputs, layout: Layout) -> Floats:
    """``[pp]`` how many times as long the slowest GPU of every pipeline rank computes."""
    return np.asarray(paces(inputs, layout).max(axis=1))


def slow_down(program: Program, factors: Floats) -> Program:
    """The program with slots of their own for ranks that compute slower."""
    computes = np.array([isinstance(slot, ComputeSlot) for slot in program.slots])
    tasks = np.flatnonzero(computes[program.graph.slot] & (factors[program.rank] != 1))
    if not len(tasks):
        return program
    pairs, place = np.unique(program.graph.slot[tasks] * len(factors) + program.rank[tasks], return_inverse=True)
    slots = list(program.slots)
    for slot, rank in zip(*(column.tolist() for column in np.divmod(pairs, len(factors))), strict=True):
        own = slots[slot]
        assert isinstance(own, ComputeSlot)
        slots.append(own._replace(slow=float(factors[rank])))
    slot_of = program.graph.slot.copy()
    slot_of[tasks] = len(program.slots) + place.ravel()
    return replace(program, graph=TaskGraph(program.graph.lane, slot_of, program.graph.edges), slots=tuple(slots))


def computing(program: Program) -> Ints:
    """``[n_tasks]`` which tasks a GPU computes by itself."""
    slots = np.array([isinstance(slot, ComputeSlot | OptimizerSlot) for slot in program.slots])
    return np.asarray(slots[program.graph.slot])


def jitter(program: Program, first: Ints, members: int, sigma: float, seed: int) -> Floats:
    """``[n_work]`` how many times as long every computing task of every member takes by chance.

    Log-normal with mean 1. Every member draws from a stream of its own, so that more members do not change the others.

    Args:
        program: the tasks.
        first: ``[n_tasks + 1]`` where the work of each task begins, member by member.
        members: how many.
        sigma: of the logarithm.
        seed: of the run.
    """
    noise = np.ones(int(first[-1]), dtype=np.float32)
    places = first[:-1][computing(program)]
    for member, stream in enumerate(np.random.SeedSequence(seed).spawn(members)):
        drawn = np.random.default_rng(stream).standard_normal(len(places), dtype=np.float32)
        noise[places + member] = np.exp(sigma * drawn - sigma**2 / 2)
    return noise
