from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from ffsim.config import Override
from ffsim.errors import ScenarioError
from ffsim.topology import LinkKind, VertexKind, build_topology, load_cluster

PCIE, NIC_PCIE, ROOT_PORT, BUS, SOCKETS, MEMORY, PEER, BRIDGE = (
    LinkKind.PCIE,
    LinkKind.NIC_PCIE,
    LinkKind.ROOT_PORT,
    LinkKind.ROOT_PORT_BUS,
    LinkKind.SOCKETS,
    LinkKind.MEMORY,
    LinkKind.PEER_TO_PEER,
    LinkKind.BRIDGE,
)


@cache
def fire_flyer(name="fire-flyer-2"):
    return build_topology(load_cluster(name))


def crossed(built, src, dst):
    """Kinds of the links and media that one flow crosses."""
    links = built.routes(src, dst).links[0]
    return [LinkKind(kind) for kind in built.link_kind[links[links >= 0]]]


def together_bytes_per_s(built, src, dst):
    """Rate of each of some flows of one size that run at once: what the most crowded link leaves to it."""
    loads = built.loads(built.routes(src, dst), 1.0)
    return 1 / (loads / built.bandwidth_bytes_per_s).max()


def test_a_copy_to_memory_crosses_what_lies_between():
    built = fire_flyer()
    far, near = int(built.memory(0, 0)), int(built.memory(0, 1))
    assert near == int(built.hub(0))
    assert crossed(built, 0, far) == [PCIE, MEMORY]
    assert crossed(built, 0, near) == [PCIE, SOCKETS, MEMORY]
    assert crossed(built, 4, near) == [PCIE, MEMORY]
    assert crossed(built, 5, near) == [PCIE, BUS, ROOT_PORT, MEMORY]
    assert crossed(built, far, 6) == [MEMORY, SOCKETS, ROOT_PORT, BUS, PCIE]
    assert crossed(built, far, near) == [MEMORY, SOCKETS, MEMORY]


def test_gpus_reach_each_other_over_their_root_ports():
    built = fire_flyer("fire-flyer-2-2022")
    assert crossed(built, 0, 3) == [PCIE, PCIE]
    assert crossed(built, 0, 7) == [PCIE, SOCKETS, PCIE]
    assert crossed(built, 4, 5) == [PCIE, ROOT_PORT, BUS, PCIE]
    assert crossed(built, 5, 6) == [PCIE, BUS, PCIE]
    assert crossed(fire_flyer(), 4, 5) == [BRIDGE]


def test_only_gpus_meet_the_peer_to_peer_limit():
    built = fire_flyer()
    gpu, host = crossed(built, 4, 8 + 4), crossed(built, int(built.hub(0)), int(built.hub(1)))
    assert gpu[:3] == [PCIE, NIC_PCIE, PEER]
    assert gpu[-3:] == [PEER, NIC_PCIE, PCIE]
    assert host[:2] == [MEMORY, NIC_PCIE]
    assert host[-2:] == [NIC_PCIE, MEMORY]
    assert PEER not in host


def test_the_way_back_uses_the_other_direction_of_cables_and_the_same_media():
    built = fire_flyer()
    there, back = built.routes(6, int(built.memory(0, 0))).links[0], built.routes(int(built.memory(0, 0)), 6).links[0]
    one_way = np.isin(built.link_kind[there], (BUS, MEMORY))
    assert (np.where(one_way, there, there ^ 1) == back[::-1]).all()
    out, into = built.routes(6, 14).links[0], built.routes(14, 6).links[0]
    assert set(out[built.link_kind[out] == PEER]) | set(into[built.link_kind[into] == PEER]) == set(
        range(built.n_cable_links, built.n_cable_links + 4)
    )


@pytest.mark.parametrize(
    ("ends", "rate"),
    [
        ([(5, "near")], 27e9),
        ([(5, "near"), (6, "near")], 37e9 / 2),  # as measured (arXiv 2408.14158 s4.4)
        ([(5, "near"), ("near", 6)], 37e9 / 2),  # both directions together
        ([(4, "near"), (5, "near")], 27e9),
        ([(0, "far"), (1, "far"), (2, "far"), (3, "far")], 27e9),
        ([(4, 12)], 9 * 2**30),  # GPU to GPU of another node: 9.66 GB/s
        ([("near", "other")], 24.5e9),
    ],
)
def test_what_flows_at_once_get(ends, rate):
    built = fire_flyer()
    places = {"near": int(built.memory(0, 1)), "far": int(built.memory(0, 0)), "other": int(built.hub(1))}
    src, dst = (np.array([places.get(end, end) for end in side]) for side in zip(*ends, strict=True))
    assert together_bytes_per_s(built, src, dst) == pytest.approx(rate)


def test_a_port_in_use_both_ways_costs_more():
    shipped = load_cluster("fire-flyer-2")
    assert fire_flyer().wiring.node.host.both_ways_weight == pytest.approx(37 / 33)
    free = replace(shipped.cpu, root_port_both=None)
    assert build_topology(replace(shipped, cpu=free)).wiring.node.host.both_ways_weight == 1


def test_memory_counts_reads_and_writes_together():
    built = fire_flyer()
    near = int(built.memory(0, 1))
    src, dst = np.array([4, 7, near, near]), np.array([near, near, 4, 7])
    loads = built.loads(built.routes(src, dst), 10.0)
    assert loads[built.link_kind == MEMORY].tolist().count(40.0) == 1
    assert loads[built.link_kind == PCIE].max() == 10.0


def test_media_are_no_cables():
    built = fire_flyer()
    media = slice(built.n_cable_links, None)
    assert (built.src[media] == built.dst[media]).all()
    assert np.bincount(built.link_kind[media]).tolist()[BUS:] == [1250, 2500, 2500]
    assert (built.link_kind[: built.n_cable_links] < BUS).all()
    graph = built.graph()
    port = int(built.src[built.link_kind == BUS][0])
    assert graph.nodes[port] == {"kind": "root_port", "root_port_bus_bytes_per_s": 37e9}
    assert graph.nodes[int(built.hub(0))] == {"kind": "hub", "memory_bytes_per_s": 160e9}
    assert sum(n for _, _, n in graph.edges(data="n_links")) == built.n_cable_links
    assert built.counts().nodes == 1250


def test_a_host_without_description_limits_nothing():
    built = fire_flyer("fire-flyer-1")
    assert built.n_links == built.n_cable_links
    assert not np.isin(built.vertex_kind, (VertexKind.SOCKET, VertexKind.ROOT_PORT)).any()
    assert crossed(built, 0, 4) == [PCIE, NIC_PCIE, LinkKind.ACCESS, LinkKind.ACCESS, NIC_PCIE, PCIE]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nodes.host.nic_sockets=[2]", "nic_sockets is .2.; give 1 of the sockets 0 to 1"),
        ("nodes.host.shared_root_ports=[[3, 4]]", "GPUs 0 to 7 of one socket"),
        ("nodes.host.shared_root_ports=[[5, 6], [6, 7]]", "in one list at most"),
        ("nodes.host.shared_root_ports=[[5]]", "two or more"),
        ("nodes.interconnect=nvswitch", "leave it out beside an NVSwitch"),
    ],
)
def test_hosts_that_cannot_be_are_refused(override, message):
    with pytest.raises(ScenarioError, match=message):
        load_cluster("fire-flyer-2", overrides=[Override.parse(override)])


def test_a_cpu_without_the_figures_a_host_needs_is_refused(tmp_path):
    shipped = load_cluster("fire-flyer-2")
    (tmp_path / "bare.yaml").write_text("base: epyc-7502\nmemory_usable: null\nroot_port: null\n")
    override = Override.parse(f"nodes.cpu={tmp_path / 'bare.yaml'}")
    with pytest.raises(
        ScenarioError, match=f"{shipped.cpu.title.split('(')[0]}.*does not state memory_usable, root_port"
    ):
        load_cluster("fire-flyer-2", overrides=[override])
