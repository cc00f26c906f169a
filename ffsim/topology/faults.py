"""Faults of a cluster file, found by the names of vertices and taken off the rates of links."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ffsim.errors import Problem, ScenarioError
from ffsim.topology.names import SWITCHES, all_names, links_between
from ffsim.topology.spec import FaultSpec
from ffsim.topology.topology import Topology


def with_faults(topology: Topology, faults: Sequence[FaultSpec], path: str = "faults") -> Topology:
    """The same cluster with its faults; several on one link multiply.

    Args:
        topology: the cluster.
        faults: what is broken or slow.
        path: where they stand in their file, for messages.

    Raises:
        ScenarioError: every fault that names something there is not.
    """
    finder = _Finder(topology)
    cables: list[int] = []
    left: list[float] = []
    for number, fault in enumerate(faults):
        found = finder.links(fault, f"{path}.{number}")
        cables += found
        left += [fault.capacity] * len(found)
    if finder.problems:
        raise ScenarioError(finder.problems)
    links = np.array(cables, dtype=np.int64)
    return topology.degraded(np.append(links, links ^ 1), np.tile(left, 2))


class _Finder:
    """Looks names up and keeps what it could not find."""

    def __init__(self, topology: Topology) -> None:
        self.problems: list[Problem] = []
        self._topology = topology
        self._names = all_names(topology)

    def links(self, fault: FaultSpec, path: str) -> list[int]:
        """One direction of every cable that a fault names; none, and a problem noted, where it names none."""
        topology = self._topology
        if fault.between is not None:
            src, dst = (self._vertex(name, f"{path}.between") for name in fault.between)
            return [] if src is None or dst is None else self._between(fault, src, dst, path)
        if fault.at is not None:
            vertex = self._vertex(fault.at, f"{path}.at")
            return (
                [] if vertex is None else np.flatnonzero((topology.src == vertex) & (topology.dst != vertex)).tolist()
            )
        nic = self._vertex(f"node {fault.node} NIC {fault.nic}", path)
        if nic is None:
            return []
        upward = np.isin(topology.vertex_kind[topology.dst], SWITCHES)
        return np.flatnonzero((topology.src == nic) & upward).tolist()

    def _between(self, fault: FaultSpec, src: int, dst: int, path: str) -> list[int]:
        found = links_between(self._topology, src, dst)
        names = " and ".join(fault.between or ())
        if not found:
            self._note(path, f"no cable joins {names}", "name the two ends of a cable")
        elif fault.cable is not None and fault.cable >= len(found):
            count = f"{len(found)} cable{'s join' if len(found) > 1 else ' joins'} {names}"
            self._note(f"{path}.cable", f"got {fault.cable}, and {count}", f"use 0 to {len(found) - 1}")
        return found if fault.cable is None else found[fault.cable : fault.cable + 1]

    def _vertex(self, name: str, path: str) -> int | None:
        vertex = self._names.get(name)
        if vertex is None:
            shapes: dict[str, str] = {}
            for known in self._names:
                shapes[_shape(known)] = known  # the last of its shape
            last = shapes.get(_shape(name))
            fix = f"the last of these is {last!r}" if last else f"with numbers for #, use one of {', '.join(shapes)}"
            self._note(path, f"there is no {name!r}", fix)
        return vertex

    def _note(self, path: str, what: str, fix: str) -> None:
        self.problems.append(Problem(where=self._topology.name, path=path, what=what, fix=fix))


def _shape(name: str) -> str:
    """A name without its numbers.

    >>> _shape("zone 0 leaf 3")
    'zone # leaf #'
    """
    return re.sub(r"\d+", "#", name)
