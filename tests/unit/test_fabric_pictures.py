"""Pictures of fabrics and of what their links carry: every text and shape comes from the topology."""

import re
from collections import Counter
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from ffsim.report import fabric as fabric_module
from ffsim.report.fabric import choose, fabric_picture, faults_of, is_layered
from ffsim.report.link_loads import DOWN, HEAT, load_map, panels_of
from ffsim.topology import FaultSpec, LinkKind, VertexKind, build_topology, load_cluster


@cache
def topology(name, faults=()):
    cluster = load_cluster(name)
    return build_topology(replace(cluster, spec=replace(cluster.spec, faults=faults)))


def parsed(svg):
    return ET.fromstring(svg)  # noqa: S314 - our own output


def texts(svg):
    return [text.text for text in parsed(svg).iter("{http://www.w3.org/2000/svg}text")]


def title(svg):
    return parsed(svg).find("{http://www.w3.org/2000/svg}title").text


def drawn_colours(svg):
    """Colours of cells: each of the scale's stands once in its legend, before or after."""
    counts = Counter(re.findall(r"fill: (#\w{6})", svg))
    return {color for color, count in counts.items() if count > 1}


def test_the_picture_says_what_the_fabric_is_made_of():
    svg = fabric_picture(topology("fire-flyer-2"))
    found = texts(svg)
    for expected in ("2 inter-zone switches", "40 spines", "20 a zone", "80 leaves", "zone 1", "15 to 16 compute"):
        assert expected in found
    assert "fire-flyer-2: 1,610 ports on 122 switches, 1,590 cables between them, bisection 490 GB/s" in found
    assert not any(text.startswith("Drawn") for text in found)
    assert svg == fabric_picture(topology("fire-flyer-2"))


def test_parallel_cables_are_drawn_once_and_every_pair_is():
    built = topology("h800-2048")
    scene = choose(built, layered=True)
    # eight planes of eight leaves and four spines, with eight cables between each two
    assert len(scene.cables) == 8 * 8 * 4
    assert len(scene.switches[VertexKind.LEAF]) == 64
    assert np.isfinite(scene.x[scene.switches[VertexKind.SPINE]]).all()


def test_a_large_fabric_is_thinned_and_says_so():
    built = topology("dgx-a100-10000")
    scene = choose(built, layered=True)
    assert scene.note == "Drawn: 3 of 25 pods; 96 of 250 cores."
    assert len(scene.cables) <= fabric_module.MAX_CABLES
    svg = fabric_picture(built)
    assert scene.note in texts(svg)
    assert len(svg) < 150_000


def test_faults_stand_out():
    faults = (
        FaultSpec(between=("zone 0 leaf 3", "zone 0 spine 2"), capacity=0),
        FaultSpec(between=("zone 0 leaf 4", "zone 0 spine 2"), capacity=0.5),
    )
    broken = topology("fire-flyer-2", faults)
    down, slow = faults_of(broken, choose(broken, layered=True).cables)
    assert (down.sum(), slow.sum()) == (1, 1)
    found = texts(fabric_picture(broken))
    assert {"down", "slow"} <= set(found)
    assert not {"down", "slow"} & set(texts(fabric_picture(topology("fire-flyer-2"))))


@pytest.mark.slow
def test_switches_without_layers_stand_apart():
    # a ring of eight switches, in place of a kind of fabric that has no layers
    n = 8
    ring = SimpleNamespace(
        vertex_kind=np.full(n, VertexKind.LEAF),
        src=np.stack([np.arange(n), (np.arange(n) + 1) % n], axis=1).ravel(),
        dst=np.stack([(np.arange(n) + 1) % n, np.arange(n)], axis=1).ravel(),
        bandwidth_bytes_per_s=np.ones(2 * n),
        n_vertices=n,
        n_links=2 * n,
        wiring=SimpleNamespace(
            fabric=SimpleNamespace(cables=SimpleNamespace(bandwidth_bytes_per_s=np.ones(n))),
            node=SimpleNamespace(n_cables=0),
        ),
    )
    assert not is_layered(ring)
    scene = choose(ring, layered=False)
    points = np.stack([scene.x, scene.y], axis=1)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    neighbours = apart[np.arange(n), (np.arange(n) + 1) % n]
    assert apart[~np.eye(n, dtype=bool)].min() == pytest.approx(neighbours.min())
    assert neighbours == pytest.approx(np.full(n, neighbours.mean()), rel=0.05)


@pytest.mark.parametrize("name", ["fire-flyer-2", "h800-2048", "dgx-a100-10000"])
def test_the_map_has_a_cell_for_every_link_of_the_fabric(name):
    built = topology(name)
    panels = panels_of(built)
    links = np.concatenate([panel.links for panel in panels])
    wanted = np.isin(built.link_kind, [LinkKind.ACCESS, LinkKind.LEAF_SPINE, LinkKind.SPINE_CORE, LinkKind.INTERZONE])
    assert sorted(links.tolist()) == np.flatnonzero(wanted).tolist()
    for panel in panels:
        parallel = np.stack([built.src[panel.links], built.dst[panel.links]], axis=1)
        cells = np.stack([panel.row, panel.column], axis=1)
        assert len(np.unique(cells, axis=0)) == len(np.unique(parallel, axis=0))


def test_the_map_names_the_busiest_link_and_how_busy_it_is():
    built = topology("fire-flyer-2")
    loads = built.loads(built.port_routes(np.arange(1, 9), 0), 1e9)
    last = int(built.port_routes(1, 0).links[0, -1])
    rate = built.bandwidth_bytes_per_s[last]
    found = title(load_map(built, loads, 16e9 / rate))
    assert found.startswith("Busiest is zone 0 leaf 0 -> node 0 NIC 0: 50 % in use over")
    assert "(8 GB)" in found
    assert "Busiest is zone 0 leaf 0 -> node 0 NIC 0 with 8 GB" in title(load_map(built, loads))


def test_colours_follow_use_and_faults():
    built = topology("fire-flyer-2", (FaultSpec(between=("zone 0 leaf 3", "zone 0 spine 2"), capacity=0),))
    loads = np.zeros(built.n_links)
    quiet = load_map(built, loads, 1.0)
    assert drawn_colours(quiet) == {DOWN}
    assert title(quiet) == "fire-flyer-2: no link of the fabric carries anything"
    link = int(built.port_routes(0, 300).links[0, 1])
    for share, color in ((0.1, HEAT[0]), (0.5, HEAT[3]), (1.0, HEAT[7])):
        loads[link] = share * built.bandwidth_bytes_per_s[link]
        assert drawn_colours(load_map(built, loads, 1.0)) == {DOWN, color}


def test_the_map_refuses_loads_that_are_none():
    built = topology("fire-flyer-2")
    for wrong in (np.zeros(3), np.full(built.n_links, np.nan), np.full(built.n_links, -1.0)):
        with pytest.raises(ValueError, match="numbers of bytes"):
            load_map(built, wrong)
    with pytest.raises(ValueError, match="more than 0, got 0"):
        load_map(built, np.zeros(built.n_links), 0.0)
