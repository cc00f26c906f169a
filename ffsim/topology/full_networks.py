"""Counts of the largest network of a kind that a switch allows, in closed form: what publications compare."""

from __future__ import annotations

from dataclasses import dataclass

from ffsim.topology.dragonfly import dragonfly_shape
from ffsim.topology.fabric_spec import (
    DragonflySpec,
    FabricOfSwitches,
    RailOptimizedSpec,
    SlimFlySpec,
    ThreeLevelSpec,
    TwoLevelSpec,
    TwoZoneSpec,
)
from ffsim.topology.forest import cables_up, check_switches, ports_down
from ffsim.topology.slim_fly import largest_slim_fly, slim_fly_degree, slim_fly_endpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCounts:
    """What a network is made of.

    Attributes:
        endpoints: ports for nodes.
        interswitch_links: cables between switches.
    """

    endpoints: int
    switches: int
    interswitch_links: int


def full_network(spec: FabricOfSwitches, ports: int) -> NetworkCounts:
    """Count the largest network of a kind; what the spec gives is kept, all else is as large as the ports allow.

    A slim fly may have any q = 4w - 1, 4w or 4w + 1 here, also one that no prime power makes a graph of, as published
    comparisons do.

    Args:
        spec: as under ``fabric`` in a cluster file.
        ports: of a switch.

    Raises:
        ScenarioError: what is given does not fit the ports.

    Source: arXiv 2505.09343 Table 3; Besta & Hoefler, SC14 (slim fly); Kim et al., ISCA 2008 (dragonfly).

    >>> full_network(DragonflySpec(kind="dragonfly", switch="ndr-64x400g", groups=511), 64)
    NetworkCounts(endpoints=261632, switches=16352, interswitch_links=384272)
    """
    match spec:
        case TwoLevelSpec():
            tree = _two_level(spec, ports, spec.leaves or ports)
            return NetworkCounts(
                endpoints=spec.planes * tree.endpoints,
                switches=spec.planes * tree.switches,
                interswitch_links=spec.planes * tree.interswitch_links,
            )
        case RailOptimizedSpec():
            return _two_level(spec, ports, ports)
        case TwoZoneSpec():
            return _two_zone(spec, ports)
        case ThreeLevelSpec():
            return _three_level(spec, ports)
        case DragonflySpec():
            return _dragonfly(spec, ports)
        case SlimFlySpec():
            return _slim_fly(spec, ports)


def _two_level(spec: TwoLevelSpec | RailOptimizedSpec, ports: int, leaves: int) -> NetworkCounts:
    down = ports_down(ports, spec.oversubscription)
    up = cables_up(ports, down, spec.oversubscription)
    spines = spec.spines or -(-leaves * up // ports)
    check_switches(leaves, spines, ports)
    return NetworkCounts(
        endpoints=leaves * down,
        switches=leaves + spines,
        interswitch_links=leaves * min(up, spines * ports // leaves),
    )


def _two_zone(spec: TwoZoneSpec, ports: int) -> NetworkCounts:
    leaves, spines, joints = spec.leaves_per_zone, spec.spines_per_zone, spec.interzone_links_per_zone.value
    half = ports // 2
    return NetworkCounts(
        endpoints=2 * (leaves * half - joints),
        switches=2 * (leaves + spines) + spec.interzone_switches,
        interswitch_links=2 * (leaves * min(half, spines * ports // leaves) + joints),
    )


def _three_level(spec: ThreeLevelSpec, ports: int) -> NetworkCounts:
    pods, half = ports, ports // 2
    down = ports_down(ports, spec.oversubscription)  # of a spine: so many leaves has a pod
    up = cables_up(ports, down, spec.oversubscription)
    return NetworkCounts(
        endpoints=pods * down * half,
        switches=pods * (down + half) + half * up,
        interswitch_links=pods * half * (down + up),
    )


def _dragonfly(spec: DragonflySpec, ports: int) -> NetworkCounts:
    shape = dragonfly_shape(spec, ports)
    switches, others = shape.groups * shape.switches, shape.groups - 1
    used = 0
    if others:  # a port that is left over in each of an odd number of groups has no partner
        used = shape.global_ports - (shape.global_ports % others % 2 if others % 2 == 0 else 0)
    return NetworkCounts(
        endpoints=switches * shape.endpoints,
        switches=switches,
        interswitch_links=shape.groups * shape.local_cables + shape.groups * used // 2,
    )


def _slim_fly(spec: SlimFlySpec, ports: int) -> NetworkCounts:
    q = spec.q or largest_slim_fly(ports)
    return NetworkCounts(
        endpoints=2 * q * q * slim_fly_endpoints(spec, q, ports),
        switches=2 * q * q,
        interswitch_links=q * q * slim_fly_degree(q),
    )
