"""Routes of every pair of 1,024 hosts of Fire-Flyer 2, by each rule that gives a flow one way.

Numbers of routes and links are exact, times are what pytest-benchmark reports.
"""

import numpy as np
import pytest

from ffsim.topology import RoutingRule, build_topology, load_cluster

pytestmark = pytest.mark.slow

N_HOSTS = 1024
N_ROUTES = 1_047_552


@pytest.fixture(scope="module")
def topology():
    return build_topology(load_cluster("fire-flyer-2"))


@pytest.fixture(scope="module")
def pairs():
    src, dst = np.divmod(np.arange(N_HOSTS * N_HOSTS), N_HOSTS)
    return src[src != dst], dst[src != dst]


@pytest.mark.parametrize("kind", ["d_mod_k", "s_mod_k", "hash"])
def test_routes_between_ports(benchmark, topology, pairs, kind):
    routes = benchmark(topology.port_routes, *pairs, RoutingRule(kind=kind))
    assert len(routes) == N_ROUTES
    assert routes.n_hops.max() == 8


def test_routes_between_hosts(benchmark, topology, pairs):
    src, dst = (topology.hub(ends) for ends in pairs)
    assert len(benchmark(topology.routes, src, dst)) == N_ROUTES


def test_loads(benchmark, topology, pairs):
    routes = topology.port_routes(*pairs)
    loads = benchmark(topology.loads, routes, 1.0)
    assert loads.sum() == routes.n_hops.sum()
