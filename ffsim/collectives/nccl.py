"""NCCL's collectives in closed form: launch, steps, and bytes on the busiest link, by algorithm and protocol.

    T = launch + steps * hop(protocol) + (x + sqrt(x * ramp)) / (rate * share(protocol))

``x`` is what the busiest link carries. The square root stands for channels: NCCL brings in more of them the more there
is to send, so short messages get less of the link; only the Simple protocol has enough channels for it to show. Of all
algorithms and protocols the one that ends first is taken, which is what NCCL's tuner aims at.
Source: github NVIDIA/nccl, src/graph/tuning.cc (form and the figures between nodes, recalled); figures of NVLink fitted
to measurements, see data/nccl-*.yaml. Domain: one group at a time on otherwise idle links.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, log2, sqrt
from pathlib import Path
from typing import Literal, get_args

from ffsim.collectives.data import check
from ffsim.config import Amount, Bytes, Figure, PositiveShare, Shelf, Time, load, spec

Operation = Literal[
    "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv", "send_recv_bidir"
]
Algorithm = Literal["ring", "tree", "nvls", "direct", "one_shot"]
Protocol = Literal["LL", "LL128", "Simple"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
PAIRWISE = ("send_recv", "send_recv_bidir")


@spec
class ProtocolFigures:
    """One protocol on one kind of link.

    Attributes:
        hop: one step of a collective; inside a node with the link, between nodes without the way through the network.
            [s]
        share: of the link's rate per direction.
        ramp: bytes at which half of the time is lost to channels not yet in use. [bytes]
    """

    hop: Figure[Time]
    share: Figure[PositiveShare]
    ramp: Figure[Bytes] | None = None


@spec
class LinkProtocols:
    """The protocols that run over one kind of link; LL128 needs links that keep 128 bytes together."""

    LL: ProtocolFigures
    LL128: ProtocolFigures | None = None
    Simple: ProtocolFigures

    def each(self) -> Iterator[tuple[Protocol, ProtocolFigures]]:
        """Name and figures of every protocol there is."""
        for name in get_args(Protocol):
            if (found := getattr(self, name)) is not None:
                yield name, found


@spec
class OneShot:
    """A kernel of its own for short all-reduces: every rank reads every other's whole buffer.

    Attributes:
        launch: the kernel with two ranks. [s]
        rank: more for every further rank. [s]
        share: of the link's rate.
        limit: the longest buffer it takes; longer ones go to NCCL. [bytes]
    """

    launch: Figure[Time]
    rank: Figure[Time]
    share: Figure[PositiveShare]
    limit: Figure[Bytes]


@spec
class NcclLibrary:
    """A communication library as a program meets it.

    Attributes:
        launch, direct_launch: a collective of rings or trees, a group of sends and receives, before anything moves. [s]
        inside: rings and trees over the links of a node.
        direct: sends and receives inside a node.
        between: over the network.
        own_copy: cost of a rank's own share of a gather, a scatter or an exchange, in shares sent.
        tree_share: of a protocol's rate that trees get.
        chunk: what trees pass on in one go, on each of their channels. [bytes]
        nvls: reduction inside the NVSwitch, none for switches without it.
        one_shot: kernel for short all-reduces, none in NCCL itself.
        host: time from one collective to the next where a host program issues them one by one. [s]
        direct_host: the same for sends and receives. [s]
    """

    kind: Literal["nccl"]
    title: str
    launch: Figure[Time]
    direct_launch: Figure[Time]
    inside: LinkProtocols
    direct: LinkProtocols
    between: LinkProtocols
    own_copy: Figure[Amount]
    tree_share: Figure[PositiveShare]
    chunk: Figure[Bytes]
    nvls: ProtocolFigures | None = None
    one_shot: OneShot | None = None
    host: Figure[Time] | None = None
    direct_host: Figure[Time] | None = None


SHELF = Shelf("NCCL library", "nccl", Path(__file__).parent / "data" / "nccl")


def load_nccl(name: str) -> NcclLibrary:
    """Load a library by name or path.

    Raises:
        ScenarioError: no such file, or it is wrong.
    """
    return load(SHELF, name, NcclLibrary)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLinks:
    """What the links of a group offer.

    Attributes:
        inside_bytes_per_s: of one rank inside its node, per direction, by the data sheet.
        between_bytes_per_s: of one node to the network, all its NICs together, per direction.
        between_latency_s: one way through the network, zero bytes.
        nics: of one node; trees and rings use all of them side by side.
    """

    inside_bytes_per_s: float
    between_bytes_per_s: float = inf
    between_latency_s: float = 0.0
    nics: int = 1

    def __post_init__(self) -> None:
        if not (self.inside_bytes_per_s > 0 and self.between_bytes_per_s > 0 and 0 <= self.between_latency_s < inf):
            raise ValueError(f"need rates above 0 and a finite latency, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NcclTime:
    """How long a collective takes, and of what.

    Attributes:
        algorithm, protocol: chosen.
        launch_s: before anything moves, what a host adds included.
        latency_s: of all steps.
        transfer_s: bytes over the busiest link.
    """

    algorithm: Algorithm
    protocol: Protocol
    launch_s: float
    latency_s: float
    transfer_s: float

    @property
    def seconds(self) -> float:
        """In all."""
        return self.launch_s + self.latency_s + self.transfer_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Ranks, and how many of them share a node."""

    n_ranks: int
    ranks_per_node: int

    @property
    def nodes(self) -> int:
        """Nodes of the group."""
        return self.n_ranks // self.ranks_per_node


def nccl_time(
    op: Operation,
    size_bytes: float,
    n_ranks: int,
    ranks_per_node: int,
    links: NodeLinks,
    library: NcclLibrary,
    algorithm: Algorithm | None = None,
) -> NcclTime:
    """Time of one collective on idle links.

    Args:
        op: what is done. Sends go from one rank to another (``_bidir``: and back at the same time).
        size_bytes: the whole buffer of a rank: the output of a gather, the input of a scatter, what a rank sends in an
            exchange to all ranks together, its own share included; of a send, the message.
        n_ranks: ranks of the group.
        ranks_per_node: of them on each node; must divide them.
        links: what the links offer.
        library: its figures.
        algorithm: take this one instead of the fastest.

    Raises:
        ValueError: a group or size that makes no sense, or no such algorithm for the operation.

    Example: nccl_time("all_reduce", 2**20, 8, 8, NodeLinks(inside_bytes_per_s=450e9), load_nccl("nccl-nvlink4"))
    """
    check(n_ranks, size_bytes)
    if ranks_per_node < 1 or n_ranks % ranks_per_node:
        raise ValueError(f"{n_ranks} ranks do not spread evenly over nodes with {ranks_per_node}")
    if op in PAIRWISE and n_ranks != 2:
        raise ValueError(f"a send has two ranks, got {n_ranks}")
    group = Group(n_ranks=n_ranks, ranks_per_node=ranks_per_node)
    if n_ranks == 1:
        return NcclTime(algorithm="ring", protocol="LL", launch_s=0.0, latency_s=0.0, transfer_s=0.0)
    ways = [each for each in _ways(op, size_bytes, group, links, library) if algorithm in {None, each.algorithm}]
    if not ways:
        raise ValueError(f"no {algorithm} for {op} over {n_ranks} ranks, {ranks_per_node} a node")
    fastest = min(ways, key=lambda each: each.seconds)
    return _issued(fastest, op, library)


def _ways(op: Operation, size_bytes: float, group: Group, links: NodeLinks, library: NcclLibrary) -> Iterator[NcclTime]:
    if op == "all_to_all" or op in PAIRWISE:
        yield from _direct(op, size_bytes, group, links, library)
        return
    yield from _rings(op, size_bytes, group, links, library)
    if op != "all_reduce":
        return
    if group.nodes > 1:
        yield from _trees(size_bytes, group, links, library)
        return
    n = group.n_ranks
    if library.nvls is not None and n > 2:
        # a rank's own share goes out to the switch, and everything once in each direction
        moved = _transfer_s(size_bytes * (1 + 1 / n), links.inside_bytes_per_s, library.nvls)
        yield _made("nvls", "Simple", library.launch.value, library.nvls.hop.value, moved)
    own = library.one_shot
    if own is not None and size_bytes <= own.limit.value:
        moved = (n - 1) * size_bytes / (links.inside_bytes_per_s * own.share.value)
        yield _made("one_shot", "LL", own.launch.value, (n - 2) * own.rank.value, moved)


def _made(algorithm: Algorithm, protocol: Protocol, launch_s: float, latency_s: float, transfer_s: float) -> NcclTime:
    return NcclTime(
        algorithm=algorithm, protocol=protocol, launch_s=launch_s, latency_s=latency_s, transfer_s=transfer_s
    )


def _transfer_s(moved_bytes: float, rate: float, figures: ProtocolFigures) -> float:
    ramp = figures.ramp.value if figures.ramp else 0.0
    return (moved_bytes + sqrt(moved_bytes * ramp)) / (rate * figures.share.value)


def _protocols(
    group: Group, inside: LinkProtocols, between: LinkProtocols
) -> Iterator[tuple[Protocol, ProtocolFigures, ProtocolFigures]]:
    """Name and figures inside and between nodes of every protocol that runs on all links of the group."""
    for name, within in inside.each():
        across = getattr(between, name) if group.nodes > 1 else within
        if across is not None:
            yield name, within, across


def _rings(
    op: Operation, size_bytes: float, group: Group, links: NodeLinks, library: NcclLibrary
) -> Iterator[NcclTime]:
    """Rings pass shares of the buffer on: n-1 steps, twice for an all-reduce; a broadcast passes on all of it."""
    n, rounds = group.n_ranks, 2 if op == "all_reduce" else 1
    share = 1.0 if op == "broadcast" else rounds * (n - 1) / n
    own = library.own_copy.value / n if op in {"all_gather", "reduce_scatter"} else 0.0
    crossing = group.nodes / n if group.nodes > 1 else 0.0  # steps that leave a node, of all
    for name, within, across in _protocols(group, library.inside, library.between):
        hop = (1 - crossing) * within.hop.value + crossing * (across.hop.value + links.between_latency_s)
        moved = 0.0
        if group.ranks_per_node > 1:
            moved = _transfer_s((share + own) * size_bytes, links.inside_bytes_per_s, within)
        if group.nodes > 1:
            moved = max(moved, _transfer_s(share * size_bytes, links.between_bytes_per_s, across))
        yield _made("ring", name, library.launch.value, rounds * (n - 1) * hop, moved)


def _trees(size_bytes: float, group: Group, links: NodeLinks, library: NcclLibrary) -> Iterator[NcclTime]:
    """Two trees over the nodes, a chain in each: up and down; each half of the buffer meets a node's link twice."""
    for name, within, across in _protocols(group, library.inside, library.between):
        down = (group.ranks_per_node - 1) * within.hop.value
        down += log2(group.nodes) * (across.hop.value + links.between_latency_s)
        moved = _transfer_s(2 * size_bytes, links.between_bytes_per_s, across)
        if group.ranks_per_node > 1:
            moved = max(moved, _transfer_s(2 * size_bytes, links.inside_bytes_per_s, within))
        yield _made("tree", name, library.launch.value, 2 * down, moved / library.tree_share.value)


def _direct(
    op: Operation, size_bytes: float, group: Group, links: NodeLinks, library: NcclLibrary
) -> Iterator[NcclTime]:
    """Every rank sends to every other at once: what stays in the node over its links, the rest over its NICs."""
    n, g = group.n_ranks, group.ranks_per_node
    pair = op in PAIRWISE
    near = float(g > 1) if pair else (g - 1 + library.own_copy.value) / n
    far = float(g == 1) if pair else (n - g) / n * g
    for name, within, across in _protocols(group, library.direct, library.between):
        hop = within.hop.value if g > 1 else 0.0
        moved = _transfer_s(near * size_bytes, links.inside_bytes_per_s, within) if g > 1 else 0.0
        if group.nodes > 1:
            hop += across.hop.value + links.between_latency_s
            moved = max(moved, _transfer_s(far * size_bytes, links.between_bytes_per_s, across))
        yield _made("direct", name, library.direct_launch.value, hop, moved)


def _issued(time: NcclTime, op: Operation, library: NcclLibrary) -> NcclTime:
    """What a host adds that issues collectives one by one: it hides the short ones, and calls beyond the first wait."""
    figure = library.direct_host if op in PAIRWISE else library.host
    if figure is None:
        return time
    waited = max(figure.value - time.seconds, 0.0) + (figure.value if op == "send_recv_bidir" else 0.0)
    return _made(time.algorithm, time.protocol, time.launch_s + waited, time.latency_s, time.transfer_s)
