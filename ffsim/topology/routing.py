"""Static routes from end to end: out of the node, over the fabric, into the other node."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ffsim.topology.arrays import NO_LINK, Bools, Floats, Ints, packed
from ffsim.topology.endpoints import Endpoints
from ffsim.topology.fabric import Fabric
from ffsim.topology.node import Node


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Routes:
    """The way of every flow.

    Attributes:
        links: ``[n_flows, max_hops]`` int32, link ids in order, then -1. A flow to itself has none.
        latency_s: ``[n_flows]``, one-way, zero-byte.
    """

    links: NDArray[np.int32]
    latency_s: Floats

    def __len__(self) -> int:
        return len(self.links)

    @property
    def n_hops(self) -> Ints:
        """``[n_flows]`` links of each flow."""
        hops: Ints = (self.links != NO_LINK).sum(axis=1)
        return hops


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Wiring:
    """What a route is made from: the numbering of the nodes, the end points and the fabric."""

    node: Node
    endpoints: Endpoints
    fabric: Fabric

    def find(self, src: ArrayLike, dst: ArrayLike) -> Ints:
        """Links of every flow between two vertices: ``[n_flows, max_hops]``, filled with -1.

        Raises:
            ValueError: an end is not a vertex that can send, or two storage ports share no plane.
        """
        source, destination = np.broadcast_arrays(self._vertices(src), self._vertices(dst))
        first, last = self._ports(source, destination)
        inside = self._same_node(source, destination)
        outside = ~inside & (source != destination)
        leaving, arriving = outside & ~self._is_storage(source), outside & ~self._is_storage(destination)
        paths = self.fabric.paths(first[outside], last[outside])
        links = np.full((len(source), 3 + paths.shape[1] + 3), NO_LINK, dtype=np.int64)
        links[inside, :2] = self.node.within(source[inside], destination[inside])
        links[leaving, :3] = self.node.out(source[leaving], first[leaving])
        links[outside, 3:-3] = np.where(paths == NO_LINK, NO_LINK, paths + 2 * self.node.n_cables)
        links[arriving, -3:] = self.node.into(last[arriving], destination[arriving])
        return packed(links)

    def _vertices(self, ends: ArrayLike) -> Ints:
        vertices = np.atleast_1d(np.asarray(ends, dtype=np.int64))
        compute = (vertices >= 0) & (vertices < (self.node.n_gpus if self.node.switched else self.node.first_nic))
        good = compute | (self._is_storage(vertices) & (vertices < self.node.first_nic + len(self.endpoints)))
        if not good.all():
            hosts = "" if self.node.switched else ", hosts"
            raise ValueError(f"vertex {vertices[~good][0]} cannot send: ends are GPUs{hosts} and storage NICs")
        return vertices

    def _is_storage(self, vertices: Ints) -> Bools:
        storage: Bools = vertices >= self.node.first_nic + self.endpoints.n_compute
        return storage

    def _same_node(self, source: Ints, destination: Ints) -> Bools:
        compute = ~self._is_storage(source) & ~self._is_storage(destination)
        same: Bools = compute & (self.node.of(source) == self.node.of(destination))
        return same

    def _ports(self, source: Ints, destination: Ints) -> tuple[Ints, Ints]:
        """End points by which flows leave and arrive, in one plane.

        Each end prefers its own NIC. Where the two differ in plane the destination takes the source's (its node's NIC
        of the same rail); a storage port cannot give way, so a source that is not one takes the port's.
        """
        first, last = self._own_port(source), self._own_port(destination)
        n_planes = self.fabric.n_planes
        plane_of_first, plane_of_last = (self.endpoints.nic[port] % n_planes for port in (first, last))
        shift = plane_of_first - plane_of_last
        fixed_first, fixed_last = self._is_storage(source), self._is_storage(destination)
        if (fixed_first & fixed_last & (shift != 0)).any():
            raise ValueError("two storage ports in different planes: choose ports of one plane")
        return np.where(fixed_last, first - shift, first), np.where(fixed_last, last, last + shift)

    def _own_port(self, vertices: Ints) -> Ints:
        port: Ints = np.where(self._is_storage(vertices), vertices - self.node.first_nic, self.node.own_nic(vertices))
        return port
