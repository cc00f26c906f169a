from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from ffsim.topology import LinkKind, VertexKind, build_topology, load_cluster

NIC, LEAF, SPINE, CORE, GPU, HUB, SOCKET = (
    VertexKind.NIC,
    VertexKind.LEAF,
    VertexKind.SPINE,
    VertexKind.CORE,
    VertexKind.GPU,
    VertexKind.HUB,
    VertexKind.SOCKET,
)


@cache
def topology(name):
    return build_topology(load_cluster(name))


def vertices(built, src, dst):
    """The vertices that one flow passes."""
    links = built.routes(src, dst).links[0]
    return [src, *built.dst[links[(links >= 0) & (links < built.n_cable_links)]].tolist()]


def passed(built, src, dst):
    return [VertexKind(built.vertex_kind[vertex]) for vertex in vertices(built, src, dst)]


def test_inside_a_node_with_a_switch_every_gpu_is_two_links_away():
    built = topology("h800-2048")
    assert vertices(built, 0, 7) == [0, 2048, 7]
    assert built.routes(0, 7).latency_s.tolist() == pytest.approx([3.33e-6])


def test_a_bridge_joins_a_pair_and_pcie_the_rest():
    built = topology("fire-flyer-2")
    assert vertices(built, 3, 2) == [3, 2]
    assert built.link_kind[built.routes(3, 2).links[0, 0]] == LinkKind.BRIDGE
    assert passed(built, 1, 2) == passed(topology("fire-flyer-2-2022"), 3, 2) == [GPU, SOCKET, GPU]
    assert passed(topology("fire-flyer-1"), 3, 2) == [GPU, HUB, GPU]


def test_a_gpu_reaches_itself_over_nothing():
    routes = topology("h800-2048").routes([5, 5], [5, 6])
    assert routes.n_hops.tolist() == [0, 2]
    assert routes.latency_s[0] == 0


def test_same_leaf_and_cross_leaf_latency_as_measured():
    # arXiv 2505.09343 Table 5: 2.8 us and 3.7 us
    for name in ("h800-2048", "fire-flyer-2", "dgx-a100-10000"):
        built = topology(name)
        same, other = built.routes(0, 8), built.routes(0, 8 * 24 if name == "fire-flyer-2" else 8 * 40)
        assert same.latency_s[0] == pytest.approx(2.8e-6)
        assert other.latency_s[0] == pytest.approx(3.7e-6)


def test_a_flow_keeps_its_rail_and_then_crosses_nvlink():
    built = topology("h800-2048")
    nic = 2048 + 256
    assert vertices(built, 3, 8 + 3)[1:] == [nic + 3, vertices(built, 3, 11)[2], nic + 8 + 3, 11]
    over = vertices(built, 3, 8 + 6)
    assert over[1] == nic + 3
    assert over[-4:] == [nic + 8 + 3, 8 + 3, 2048 + 1, 8 + 6]


def test_with_one_plane_a_flow_goes_to_the_destinations_own_nic():
    built = topology("dgx-a100-10000")
    assert passed(built, 3, 9999) == [GPU, NIC, LEAF, SPINE, CORE, SPINE, LEAF, NIC, GPU]


def test_with_fewer_planes_than_nics_a_flow_arrives_next_to_its_destination():
    shipped = load_cluster("h800-2048")
    built = build_topology(replace(shipped, spec=replace(shipped.spec, fabric=replace(shipped.spec.fabric, planes=4))))
    nic = 2048 + 256
    # GPU 1 is in plane 1; of the destination's NICs 1 and 5, both in plane 1, NIC 5 is in the group of GPU 6
    assert vertices(built, 1, 8 + 6)[-4:] == [nic + 8 + 5, 8 + 5, 2048 + 1, 8 + 6]


def test_gpus_that_share_a_nic_use_it_from_where_they_are():
    shipped = load_cluster("dgx-a100-10000")
    nodes = replace(shipped.spec.nodes, nics=4, count=100)
    built = build_topology(replace(shipped, spec=replace(shipped.spec, nodes=nodes)))
    nic = 800 + 100
    assert vertices(built, 3, 8 + 7)[:2] == [3, nic + 1]
    assert vertices(built, 3, 8 + 7)[-2:] == [nic + 4 + 3, 8 + 7]


def test_zones_are_crossed_over_one_interzone_switch():
    built = topology("fire-flyer-2")
    kinds = [VertexKind(kind) for kind in built.vertex_kind[vertices(built, 8 * 30, 9999)]]
    assert kinds[:4] == [GPU, SOCKET, HUB, NIC]
    assert kinds.count(VertexKind.INTERZONE) == 1
    assert kinds[4:-3] == [LEAF, SPINE, LEAF, VertexKind.INTERZONE, LEAF, SPINE, LEAF]


def test_the_destination_picks_the_interzone_cable():
    built = topology("fire-flyer-2")
    zone_a, zone_b = 8 * np.arange(625), 8 * np.arange(625, 1250)
    routes = built.routes(zone_a, zone_b)
    loads = built.loads(routes, 1.0)[built.link_kind == LinkKind.INTERZONE]
    # 625 flows over 20 cables of each zone, one direction in use
    assert sorted(set(loads.tolist())) == [0, 31, 32]
    assert (loads > 0).sum() == 40


def test_storage_ports_and_hosts_are_ends_too():
    built = topology("fire-flyer-2")
    port = int(built.storage_endpoints[0, 0])
    assert passed(built, port, 0)[0] == VertexKind.STORAGE_NIC
    assert passed(built, port, 4)[-3:] == [NIC, HUB, GPU]
    assert passed(built, 4, port)[:3] == [GPU, HUB, NIC]
    host = int(built.hub(0))
    assert vertices(built, 4, host) == [4, host]
    assert vertices(built, host, 4) == [host, 4]
    assert passed(built, host, int(built.hub(1))) == [HUB, NIC, LEAF, NIC, HUB]
    assert built.routes(host, host).n_hops.tolist() == [0]


def test_a_storage_port_decides_the_plane():
    shipped, other = load_cluster("h800-2048"), load_cluster("fire-flyer-2")
    storage = replace(other.spec.storage, nodes=4, nics=2)
    cluster = replace(shipped, spec=replace(shipped.spec, storage=storage), storage_nic=shipped.nic)
    built = build_topology(cluster)
    nic, port = 2048 + 256, int(built.storage_endpoints[2, 1])
    # the port is in plane 1: the flow of GPU 6 goes over NVLink to GPU 1, and the way back is the same
    assert vertices(built, 6, port)[:4] == [6, 2048, 1, nic + 1]
    assert vertices(built, port, 6)[-4:] == [nic + 1, 1, 2048, 6]
    assert vertices(built, 1, port)[:2] == [1, nic + 1]
    with pytest.raises(ValueError, match="different planes"):
        built.routes(built.storage_endpoints[0, 0], built.storage_endpoints[1, 1])


def test_other_vertices_are_no_ends():
    built = topology("h800-2048")
    for vertex in (-1, 2048, 2048 + 256, built.n_vertices - 1, built.n_vertices):
        with pytest.raises(ValueError, match=f"vertex {vertex} cannot send: ends are GPUs and storage NICs"):
            built.routes(0, vertex)


@pytest.mark.parametrize("shift", [1, 7, 32, 100, 128])
def test_a_shift_is_free_of_congestion_on_a_full_tree(shift):
    built = topology("h800-2048")
    gpus = np.arange(2048)
    loads = built.loads(built.routes(gpus, (gpus + 8 * shift) % 2048), 1.0)
    assert loads.max() == 1


@pytest.mark.parametrize("shift", [1, 7, 50, 100, 128])
def test_a_shift_is_free_of_congestion_on_a_regular_three_level_tree(shift):
    shipped = load_cluster("dgx-a100-10000")
    nodes = replace(shipped.spec.nodes, count=200)
    built = build_topology(replace(shipped, spec=replace(shipped.spec, nodes=nodes)))
    gpus = np.arange(1600)
    loads = built.loads(built.routes(gpus, (gpus + 8 * shift) % 1600), 1.0)
    assert loads.max() == 1


@pytest.mark.parametrize("name", ["h800-2048", "fire-flyer-2-three-level", "dgx-a100-10000"])
def test_every_destination_is_reached_through_one_spine_of_its_pod(name):
    built = topology(name)
    sources = np.arange(0, built.n_gpus, 8)
    for destination in (built.n_gpus - 8, built.n_gpus // 2):
        links = built.routes(sources[sources != destination], destination).links
        used = links[links >= 0]
        into_leaf = used[(built.link_kind[used] == LinkKind.LEAF_SPINE) & (built.vertex_kind[built.dst[used]] == LEAF)]
        assert len(set(into_leaf.tolist())) == 1


def test_loads_add_up_over_the_links_of_a_way():
    built = topology("h800-2048")
    routes = built.routes([0, 1], [8, 8])
    loads = built.loads(routes, [100.0, 10.0])
    assert loads.sum() == 100 * 4 + 10 * 6
    # the rail of GPU 1 ends at GPU 9, so only the last GPU differs: no link is shared
    assert set(loads.tolist()) == {0, 10, 100}
    assert built.loads(routes, 5.0).sum() == 5 * 10
