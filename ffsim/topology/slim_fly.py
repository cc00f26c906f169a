"""Slim flies: McKay-Miller-Siran graphs, in which any two switches are at most two cables apart."""

from __future__ import annotations

import numpy as np

from ffsim.topology.arrays import Cables, Ints, LinkKind, Wire, count_up
from ffsim.topology.endpoints import Endpoints, spread_over
from ffsim.topology.fabric_spec import MAX_MESH_SWITCHES, SlimFlySpec
from ffsim.topology.forest import refusal
from ffsim.topology.mesh import Mesh


def slim_fly_degree(q: int) -> int:
    """Cables from a switch to others: (3q - delta) / 2 for q = 4w + delta, delta one of -1, 0, 1.

    Raises:
        ScenarioError: q is not of that form, or too small.

    >>> slim_fly_degree(5), slim_fly_degree(28)
    (7, 42)
    """
    delta = {0: 0, 1: 1, 3: -1}.get(q % 4)
    if delta is None or q < 3:
        raise refusal(f"q is {q}, and a slim fly needs q = 4w - 1, 4w or 4w + 1", "use 3, 4, 5, 7, 8, 9, 11, ...")
    return (3 * q - delta) // 2


def slim_fly_endpoints(spec: SlimFlySpec, q: int, ports: int) -> int:
    """End points of a switch, at most: as the spec says, else half its cables to others, rounded up.

    Raises:
        ScenarioError: they do not fit the ports.
    """
    degree, most = slim_fly_degree(q), _balanced(spec, q)
    if degree + most > ports:
        raise refusal(
            f"q = {q} needs {degree} ports of a switch for others and {most} for end points, and it has {ports}",
            "use a smaller q or fewer endpoints_per_switch",
        )
    return most


def _balanced(spec: SlimFlySpec, q: int) -> int:
    return spec.endpoints_per_switch or -(-slim_fly_degree(q) // 2)


def largest_slim_fly(ports: int) -> int:
    """The largest q whose switches, with half as many end points as cables between them, fit the ports.

    >>> largest_slim_fly(64)
    28
    """
    fitting = [q for q in range(3, ports) if q % 4 != 2 and slim_fly_degree(q) + -(-slim_fly_degree(q) // 2) <= ports]
    if not fitting:
        raise refusal(f"a switch of {ports} ports is too small for a slim fly", "use switches of 8 ports or more")
    return fitting[-1]


def build_slim_fly(spec: SlimFlySpec, ports: int, endpoints: Endpoints, trunk: Wire) -> Mesh:
    """Wire a slim fly; end points are spread evenly over its switches.

    Raises:
        ScenarioError: q is not a prime that can be wired, or more ports or end points are needed than there are.
    """
    q = _smallest_q(spec, ports, len(endpoints)) if spec.q is None else spec.q
    if not _is_prime(q) or q < 3:
        below, above = _previous_prime(q), _next_prime(q)
        raise refusal(
            f"q is {q}, and only a slim fly of an odd prime can be wired here",
            f"use {below} or {above}" if below else "use 3",
        )
    n_switches, most = 2 * q * q, slim_fly_endpoints(spec, q, ports)
    if len(endpoints) > n_switches * most:
        raise refusal(
            f"{len(endpoints):,} end points are needed; q = {q} offers {n_switches * most:,}", "use a larger q"
        )
    if n_switches > MAX_MESH_SWITCHES:
        raise refusal(
            f"q = {q} needs {n_switches:,} switches, and ffsim takes {MAX_MESH_SWITCHES:,}", "use a smaller q"
        )
    home, slot = spread_over(n_switches, endpoints, spec.order)
    a, b = slim_fly_edges(q)
    trunks = Cables.between(a, b, trunk, LinkKind.LOCAL)
    return Mesh(endpoints=endpoints, home=home, slot=slot + most * home, n_switches=n_switches, trunks=trunks)


def slim_fly_edges(q: int) -> tuple[Ints, Ints]:
    """Both ends of every cable between switches.

    Switch ``(0, x, y)`` is ``x * q + y`` and meets ``(0, x, y')`` where y - y' is in the first generator set; switch
    ``(1, m, c)`` is ``q * q + m * q + c`` and meets ``(1, m, c')`` by the second; the two meet where y = m x + c.

    Args:
        q: an odd prime.

    Source: Besta & Hoefler, SC14, "Slim Fly: a cost effective low-diameter network topology", s2.
    """
    field = count_up(q)
    near, far = np.triu_indices(q, 1)
    a, b = [], []
    for half, generators in enumerate(_generators(q)):
        joined = np.isin((near - far) % q, generators)
        row = half * q * q + q * field[:, None]
        a.append((row + near[joined]).ravel())
        b.append((row + far[joined]).ravel())
    x, m, c = (axis.ravel() for axis in np.meshgrid(field, field, field, indexing="ij"))
    a.append(x * q + (m * x + c) % q)
    b.append(q * q + m * q + c)
    return np.concatenate(a), np.concatenate(b)


def _generators(q: int) -> tuple[list[int], list[int]]:
    """The two generator sets: even and odd powers of a primitive root, for q = 4w - 1 changing over half-way."""
    root = next(root for root in range(2, q) if len({pow(root, i, q) for i in range(q - 1)}) == q - 1)
    first, second = list(range(0, q - 1, 2)), list(range(1, q - 1, 2))
    if q % 4 == 3:
        w = (q + 1) // 4
        first = [*range(0, 2 * w - 1, 2), *range(2 * w - 1, 4 * w - 2, 2)]
        second = [*range(1, 2 * w, 2), *range(2 * w, 4 * w - 1, 2)]
    return [pow(root, i, q) for i in first], [pow(root, i, q) for i in second]


def _smallest_q(spec: SlimFlySpec, ports: int, n: int) -> int:
    """The smallest odd prime that holds so many end points and fits the ports."""
    q, most = 3, 0
    while slim_fly_degree(q) + _balanced(spec, q) <= ports:
        most = 2 * q * q * _balanced(spec, q)
        if most >= n:
            return q
        q = _next_prime(q)
    raise refusal(
        f"{n:,} end points are needed, and the largest slim fly of {ports}-port switches wired here offers {most:,}",
        "use fewer nodes or another kind",
    )


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % divisor for divisor in range(2, int(n**0.5) + 1))


def _next_prime(n: int) -> int:
    return next(prime for prime in range(n + 1, 2 * n + 2) if _is_prime(prime))


def _previous_prime(n: int) -> int | None:
    return next((prime for prime in range(n - 1, 2, -1) if _is_prime(prime)), None)
