"""HFReduce: an allreduce that the CPUs add up, from the GPUs' PCIe ports to the network and back.

Chunk after chunk, GPUs copy to host memory, a CPU adds the copies up, the nodes add up over a double binary tree and
send the sum back down, and every GPU copies it in. With NVLink bridges a pair adds up first and each of its GPUs copies
half. All of it is flows over PCIe, root ports, memory, the links between sockets and the fabric.
Source: arXiv 2408.14158 s4.1 to s4.4, Algorithms 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Literal

import numpy as np

from ffsim.collectives._hfreduce_ways import Groups, NodeWays, Ways, between_nodes, gathered, nothing
from ffsim.collectives.data import Floats, Ints, check
from ffsim.collectives.pattern import check_flows
from ffsim.collectives.trees import depths, turned_trees, zone_trees
from ffsim.config import Bytes, Count, Figure, Shelf, Time, load, spec
from ffsim.engine import Flows
from ffsim.topology import LinkKind, Topology


@spec
class HfReduceFigures:
    """What HFReduce adds to the links.

    Attributes:
        chunk: most bytes that are handled in one go. [bytes]
        copy_buffers: host memory of a node for what its GPUs copy out; a chunk's is free again when its sum has been
            copied in. [bytes]
        tree_pairs: pairs of trees that chunks take turns with; each is the one before with the nodes turned on.
        hop_latency: time of a message from node to node beyond the network's. [s]
        launch: from the call to the first copy, and from the last to the GPU that waits for it. [s]
    """

    kind: Literal["hfreduce"]
    title: str
    chunk: Figure[Bytes]
    copy_buffers: Figure[Bytes]
    tree_pairs: Figure[Count]
    hop_latency: Figure[Time]
    launch: Figure[Time]


SHELF = Shelf("hfreduce figures", "hfreduce", Path(__file__).parent / "data")


def load_hfreduce(name: str = "hfreduce") -> HfReduceFigures:
    """Load the figures by name or path.

    Raises:
        ScenarioError: no such file, or it is wrong.
    """
    return load(SHELF, name, HfReduceFigures)


class HfReduceStage(IntEnum):
    """What a flow does for its chunk."""

    PAIR_REDUCE = 0
    COPY_OUT = 1
    CPU_REDUCE = 2
    TREE_UP = 3
    TREE_DOWN = 4
    COPY_IN = 5
    PAIR_GATHER = 6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HfReduce:
    """One HFReduce as flows.

    Attributes:
        flows: for `ffsim.engine.simulate_flows`, on the links of the topology.
        stage, chunk: ``[n_flows]`` what each flow does, for which chunk.
        size_bytes: the buffer on each GPU.
        n_chunks: pieces of equal size that it is cut into.
        n_in_flight: chunks that fit into a node's buffers.
        depth: levels of the deepest tree.
    """

    flows: Flows
    stage: Ints
    chunk: Ints
    size_bytes: float
    n_chunks: int
    n_in_flight: int
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HfReduceBounds:
    """What the time lies between, and why.

    Attributes:
        lower_s: the busiest link works all the time.
        upper_s: and the pipeline is filled and drained for every round of the buffers.
        link, kind: that busiest link, and what it is.
    """

    lower_s: float
    upper_s: float
    link: int
    kind: LinkKind


def hfreduce(
    topology: Topology,
    nodes: Sequence[int] | Ints,
    size_bytes: float,
    figures: HfReduceFigures,
    *,
    nvlink: bool = False,
    gdrcopy: bool = True,
    fold: bool = True,
) -> HfReduce:
    """Spell out an allreduce over all GPUs of some nodes.

    Nodes that lie in two zones talk across by one pair only, as Fire-Flyer's scheduler sees to: trees of both zones are
    rooted at their first nodes. A host without description limits nothing inside.

    Args:
        topology: the cluster; GPUs meet on PCIe.
        nodes: which nodes, each once, in the order of the trees.
        size_bytes: the buffer on each GPU. [bytes]
        figures: chunks, buffers, trees and latencies.
        nvlink: pairs add up over their bridge first.
        gdrcopy: sums are read once for all GPUs of a socket; else by every GPU.
        fold: GPUs that see the same links are one flow; exact.

    Raises:
        ValueError: nodes twice or beyond the cluster, a size that is negative or not finite, nodes with an NVSwitch,
            ``nvlink`` without bridges.

    Domain: the CPUs' adding is as fast as their memory; nodes are reached by their first NIC.
    """
    members = np.asarray(nodes, dtype=np.int64)
    check(len(members), size_bytes)
    _check_nodes(topology, members, nvlink=nvlink)
    n_gpus = topology.gpus_per_node
    copied = 0.5 if nvlink else 1.0
    n_chunks = math.ceil(size_bytes / figures.chunk.value)
    groups = Groups.find(topology.wiring.node.host, nvlink=nvlink, fold=fold)
    inside = NodeWays(topology=topology, nodes=members, groups=groups, copied=copied)
    trees = _trees(topology, members, max(1, min(figures.tree_pairs.value, n_chunks)))
    turn, tree, rank = np.nonzero(trees >= 0)
    edges = np.unique(np.column_stack([rank, trees[turn, tree, rank]]), axis=0)
    child, parent = members[edges].T
    hop_s = figures.hop_latency.value
    parts = [
        inside.over_bridge() if nvlink else nothing(),
        inside.to_memory(),
        inside.added(),
        between_nodes(topology, child, parent, hop_s, added=True),
        between_nodes(topology, parent, child, hop_s, added=False),
        inside.from_memory(gdrcopy=gdrcopy),
        nothing(),
    ]
    program = _Program(
        ways=Ways.joined(parts, topology.n_links),
        groups=groups,
        trees=trees,
        edge=np.searchsorted(edges @ [len(members), 1], np.arange(len(members)) * len(members) + trees),
        n_chunks=n_chunks,
        chunk_bytes=size_bytes / max(n_chunks, 1),
        n_in_flight=max(1, int(figures.copy_buffers.value // (figures.chunk.value * n_gpus * copied))),
        copied=copied,
        nvlink=nvlink,
        launch_s=figures.launch.value,
    )
    return program.spell_out()


def hfreduce_bounds(operation: HfReduce, topology: Topology) -> HfReduceBounds:
    """Closed form of the time: what the busiest link needs, and that with the pipeline filled anew for every round.

    With B bytes on the busiest link of rate R, time L of one chunk through all stages and k of n chunks in flight:
    ``B / R <= T <= B / R + max(1, n / k) L``.

    Domain: nothing else uses the links. The lower bound is exact; the upper one is an estimate on the safe side: in
    each stage a chunk shares its links with the stage that goes the other way, and with nothing else.
    """
    seconds = topology.busy_s(_link_bytes(operation.flows, topology.n_links))
    link = int(seconds.argmax())
    lower, rounds = float(seconds[link]), max(1.0, operation.n_chunks / operation.n_in_flight)
    return HfReduceBounds(
        lower_s=lower,
        upper_s=lower + rounds * _chunk_s(operation, topology),
        link=link,
        kind=LinkKind(int(topology.link_kind[link])),
    )


def _link_bytes(flows: Flows, n_links: int) -> Floats:
    moved = np.repeat(flows.size_bytes, np.diff(flows.links.start)) * flows.weight
    return np.bincount(flows.links.values, moved, minlength=n_links).astype(np.float64)


def _chunk_s(operation: HfReduce, topology: Topology) -> float:
    """The first chunk through all stages, those that go both ways on the same links at a time; trees level by level."""
    flows, total = operation.flows, 0.0
    hops = np.diff(flows.links.start)
    seconds = np.repeat(flows.size_bytes, hops) * flows.weight / topology.bandwidth_bytes_per_s[flows.links.values]
    latency = np.zeros(len(flows)) if flows.latency_s is None else flows.latency_s
    for stages, times in (
        ((HfReduceStage.PAIR_REDUCE, HfReduceStage.PAIR_GATHER), 2),
        ((HfReduceStage.COPY_OUT, HfReduceStage.COPY_IN), 2),
        ((HfReduceStage.CPU_REDUCE,), 1),
        ((HfReduceStage.TREE_UP, HfReduceStage.TREE_DOWN), 2 * operation.depth),
    ):
        mine = np.isin(operation.stage, stages) & (operation.chunk == 0)
        crossed = np.repeat(mine, hops)
        busiest = np.bincount(flows.links.values[crossed], seconds[crossed]).max(initial=0.0)
        total += times * (busiest + latency[mine].max(initial=0.0))
    return float(total)


def _check_nodes(topology: Topology, nodes: Ints, *, nvlink: bool) -> None:
    wiring = topology.wiring.node
    if wiring.switched:
        raise ValueError(f"{topology.name}: HFReduce is for nodes whose GPUs meet on PCIe, not on an NVSwitch")
    if nvlink and wiring.interconnect != "nvlink_pairs":
        raise ValueError(f"{topology.name} has no NVLink bridges: use nvlink=False")
    if len(np.unique(nodes)) < len(nodes) or nodes.min() < 0 or nodes.max() >= wiring.count:
        raise ValueError(f"nodes: give each once, from 0 to {wiring.count - 1}")


def _trees(topology: Topology, nodes: Ints, n_turns: int) -> Ints:
    zone = topology.zone(nodes)
    if (zone == zone[0]).all():
        return turned_trees(len(nodes), n_turns)
    return zone_trees((zone != zone[0]).astype(np.int64), n_turns)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Program:
    """What all chunks do.

    Attributes:
        ways: one part a `HfReduceStage`; `PAIR_GATHER` goes where `PAIR_REDUCE` does, its part is one way over nothing.
        trees: ``[n_turns, 2, n_nodes]`` parents; chunk c uses turn ``c % n_turns``.
        edge: ``[n_turns, 2, n_nodes]`` the way of each node to its parent, counted from the first of its stage.
        copied: share of the data that each GPU copies.
    """

    ways: Ways
    groups: Groups
    trees: Ints
    edge: Ints
    n_chunks: int
    chunk_bytes: float
    n_in_flight: int
    copied: float
    nvlink: bool
    launch_s: float

    def spell_out(self) -> HfReduce:
        """All flows, stage by stage, chunk by chunk."""
        shapes = self._shapes()
        counts = [math.prod(shape) for shape in shapes]
        check_flows("HFReduce", sum(counts), "use fewer nodes, a smaller buffer or larger chunks")
        starts = np.cumsum([0, *counts])
        ids = [
            np.arange(count).reshape(shape) + start for count, shape, start in zip(counts, shapes, starts, strict=False)
        ]
        way = np.concatenate([self._way(stage, shapes[stage]) for stage in HfReduceStage])
        links, weight = gathered(self.ways, way)
        size = np.repeat([self.chunk_bytes * share for share in self._shares()], counts)
        chunks = [np.repeat(np.arange(self.n_chunks), math.prod(shape[1:])) for shape in shapes]
        return HfReduce(
            flows=Flows(
                links=links,
                size_bytes=size,
                weight=weight,
                latency_s=self.ways.latency_s[way] + self.launch_s * self._begins(ids, len(way)),
                edges=np.concatenate([np.zeros((0, 2), dtype=np.int64), *self._edges(ids)]),
            ),
            stage=np.repeat(np.arange(len(HfReduceStage)), counts),
            chunk=np.concatenate(chunks),
            size_bytes=self.chunk_bytes * self.n_chunks,
            n_chunks=self.n_chunks,
            n_in_flight=self.n_in_flight,
            depth=int(max(depths(tree).max() for tree in self.trees.reshape(-1, self.trees.shape[2]))),
        )

    def _begins(self, ids: list[Ints], n_flows: int) -> Ints:
        """``[n_flows]``, one for the first copies."""
        begins = np.zeros(n_flows, dtype=np.int64)
        begins[ids[HfReduceStage.PAIR_REDUCE if self.nvlink else HfReduceStage.COPY_OUT][:1]] = 1
        return begins

    def _shapes(self) -> list[tuple[int, ...]]:
        """Flows of every stage, by chunk, node or tree and node, and group."""
        n_nodes, n_groups = self.trees.shape[2], len(self.groups)
        copies = (self.n_chunks, n_nodes, n_groups)
        pairs, tree = (copies if self.nvlink else (self.n_chunks, n_nodes, 0)), (self.n_chunks, 2, n_nodes)
        return [pairs, copies, (self.n_chunks, n_nodes), tree, tree, copies, pairs]

    def _shares(self) -> list[float]:
        """Share of a chunk that a flow of every stage carries."""
        return [0.5, self.copied, 1.0, 0.5, 0.5, self.copied, 0.5]

    def _way(self, stage: HfReduceStage, shape: tuple[int, ...]) -> Ints:
        """The way of every flow of a stage; roots send nothing."""
        if stage in {HfReduceStage.TREE_UP, HfReduceStage.TREE_DOWN}:
            turn = np.arange(self.n_chunks) % len(self.trees)
            sends = self.trees[turn] >= 0
            way: Ints = np.where(
                sends, self.ways.first[stage] + self.edge[turn], self.ways.first[HfReduceStage.PAIR_GATHER]
            )
            return way.ravel()
        first = self.ways.first[HfReduceStage.PAIR_REDUCE if stage is HfReduceStage.PAIR_GATHER else stage]
        return np.tile(first + np.arange(math.prod(shape[1:])), self.n_chunks)

    def _edges(self, ids: list[Ints]) -> Iterator[Ints]:
        """What waits for what."""
        pair_in, out, add, up, down, into, pair_out = ids
        for copies in (pair_in, out, add, into, pair_out):  # one engine for each, chunk by chunk
            yield _edge(copies[:-1], copies[1:])
        if self.nvlink:
            yield _edge(pair_in, out)
            yield _edge(into[:, :, self.groups.partner], pair_out)
        yield _edge(out, add[:, :, None])
        yield _edge(add[:, None, :], up)
        yield from self._tree_edges(up, down)
        yield _edge(down.transpose(0, 2, 1)[:, :, None, :], into[:, :, :, None])
        begin, k = (pair_in if self.nvlink else out), self.n_in_flight
        yield _edge(into[:-k, :, :, None], begin[k:, :, None, :])

    def _tree_edges(self, up: Ints, down: Ints) -> Iterator[Ints]:
        """Up: a node sends when its children have; down: when its parent has. A tree takes its chunks in order."""
        n_turns = len(self.trees)
        parent = self.trees[np.arange(self.n_chunks) % n_turns]
        chunk, tree, node = np.nonzero(parent >= 0)
        above = parent[chunk, tree, node]
        yield _edge(up[chunk, tree, node], up[chunk, tree, above])
        yield _edge(down[chunk, tree, above], down[chunk, tree, node])
        chunk, tree, node = np.nonzero(parent < 0)
        yield _edge(up[chunk, tree, node], down[chunk, tree, node])
        for messages in (up, down):
            yield _edge(messages[:-n_turns], messages[n_turns:])


def _edge(before: Ints, after: Ints) -> Ints:
    """Edges from flows to flows, one to one after broadcasting."""
    return np.column_stack([flows.ravel() for flows in np.broadcast_arrays(before, after)])
