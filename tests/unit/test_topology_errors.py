import pytest

from ffsim.config import Override
from ffsim.errors import ScenarioError
from ffsim.topology import build_topology, load_cluster

CLUSTER = """\
kind: cluster
title: A small cluster
nodes:
  count: 4
  gpu: h800-sxm
  gpus: 8
  interconnect: nvswitch
  nic: cx7-400g
  nics: 8
  power: {value: 8 kW, source: {ref: test, kind: published}}
fabric:
  kind: two_level
  switch: ndr-64x400g
rental: {value: 2 USD/GPU-hour, source: {ref: test, kind: published}}
pue: {value: 1.2, source: {ref: test, kind: published}}
energy_price: {value: 0.08 USD/kWh, source: {ref: test, kind: published}}
"""

TWO_ZONES = """\
  kind: two_zone
  switch: qm8700
  leaves_per_zone: 40
  spines_per_zone: 20
  interzone_switches: 2
  interzone_links_per_zone: {value: 20, source: {ref: test, kind: published}}
"""


def problems(tmp_path, *changes):
    text = CLUSTER
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "small.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        build_topology(load_cluster(str(path)))
    return str(caught.value).replace(f"{tmp_path}/", "")


def two_zones(*changes):
    fabric = TWO_ZONES
    for old, new in changes:
        fabric = fabric.replace(old, new)
    return [("  kind: two_level\n  switch: ndr-64x400g\n", fabric), ("nics: 8", "nics: 1")]


def test_the_small_cluster_itself_is_fine(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(CLUSTER)
    assert build_topology(load_cluster(str(path))).n_gpus == 32
    assert load_cluster(str(path)).name == "small"


def test_a_workload_given_as_a_cluster_is_called_that(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text("kind: pretrain\nmodel: deepseek-v3\n")
    with pytest.raises(ScenarioError) as caught:
        load_cluster(str(path))
    assert str(caught.value) == (
        f"{path}:1:7: kind: expected a cluster file, got kind 'pretrain'; are the two arguments swapped?"
    )


def test_no_such_cluster_names_the_closest():
    with pytest.raises(ScenarioError, match="no cluster file named 'h800-2024'; did you mean 'h800-2048'"):
        load_cluster("h800-2024")


def test_unknown_parts_are_all_reported_at_their_place(tmp_path):
    message = problems(tmp_path, ("cx7-400g", "cx7-400"), ("h800-sxm", "h801-sxm"), ("ndr-64x400g", "ndr"))
    switches = "eth-128x200g, eth-64x400g, ndr-64x400g, qm8700"
    assert message.splitlines() == [
        "small.yaml:5:8: nodes.gpu: no gpu file named 'h801-sxm'; did you mean 'h800-sxm'?",
        "small.yaml:8:8: nodes.nic: no nic file named 'cx7-400'; did you mean 'cx7-400g'?",
        f"small.yaml:13:11: fabric.switch: no switch file named 'ndr'; installed: {switches}",
    ]


def test_a_mistake_inside_a_part_is_reported_in_the_parts_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("kind: nic\ntitle: mine\n")
    message = problems(tmp_path, ("cx7-400g", "mine.yaml"))
    assert "mine.yaml:1:1: bandwidth: missing; add `bandwidth:`" in message


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("gpus: 8", "gpus: 0", "nodes.gpus: must be at least 1, got 0"),
        ("count: 4", "count: -1", "nodes.count: must be at least 1, got -1"),
        ("count: 4", "count: 2.5", "small.yaml:4:10: nodes.count: expected a whole number, got 2.5"),
        ("nics: 8", "nics: 3", "nodes: 8 gpus cannot share 3 nics evenly; use a divisor of 8"),
        ("count: 4", "count: 200000", "1,600,000 GPUs or storage ports are too many; ffsim takes 1,048,576"),
        ("nvswitch", "nvlnk", "small.yaml:7:17: nodes.interconnect: got 'nvlnk'; use one of 'nvswitch'"),
        ("two_level", "torus", "small.yaml:12:9: fabric.kind: got 'torus'; use one of 'two_level', 'two_zone'"),
        ("  switch:", "  plane: 8\n  switch:", "fabric.plane: unknown key; did you mean 'planes'?"),
        ("  switch:", "  planes: 3\n  switch:", "fabric.planes is 3, nodes.nics is 8; every plane needs"),
        ("  switch:", "  spines: 0\n  switch:", "spines: must be at least 1, got 0"),
        ("8 kW", "8", "nodes.power.value: 8 has no unit"),
    ],
)
def test_a_bad_value_is_reported_at_its_place(tmp_path, old, new, expected):
    assert expected in problems(tmp_path, (old, new))


def test_pairs_need_an_even_number_and_a_card_with_nvlink(tmp_path):
    odd = problems(tmp_path, ("nvswitch", "nvlink_pairs"), ("gpus: 8", "gpus: 7"), ("nics: 8", "nics: 7"))
    assert "nodes: 7 gpus do not make pairs; use an even number, or interconnect pcie" in odd
    bare = "base: h800-sxm\ntitle: Bare\nscale_up_latency: null\n"
    (tmp_path / "bare.yaml").write_text(bare)
    message = problems(tmp_path, ("h800-sxm", "bare.yaml"))
    assert "small.yaml:7:17: nodes.interconnect: Bare has no NVLink; use `pcie`" in message


def test_too_many_nodes_for_two_levels_name_ports_needed_and_offered(tmp_path):
    message = problems(tmp_path, ("count: 4", "count: 300"))
    assert message == (
        "small: fabric: 2,400 end points are needed a plane; two levels of 64-port switches offer 2,048; "
        "use fewer nodes, more planes or kind three_level"
    )


def test_too_many_nodes_for_three_levels(tmp_path):
    message = problems(
        tmp_path, ("count: 4", "count: 3000"), ("kind: two_level", "kind: three_level"), ("ndr-64x400g", "qm8700")
    )
    assert "24,000 end points are needed, and three levels of 40-port switches offer 16,000" in message


def test_given_leaves_that_cannot_hold_the_end_points(tmp_path):
    message = problems(tmp_path, ("count: 4", "count: 32"), ("  switch:", "  leaves: 4\n  switch:"))
    assert message == (
        "small: fabric: 256 ports are needed below 4 leaf switches, "
        "which offer 252 (64 each, less 1 to reach a spine); use fewer nodes or more leaves"
    )
    alone = problems(tmp_path, ("count: 4", "count: 9"), ("  switch:", "  leaves: 1\n  switch:"))
    assert "72 ports are needed below 1 leaf switches, which offer 64" in alone


def test_given_switches_that_cannot_reach_one_another(tmp_path):
    leaves = problems(tmp_path, ("  switch:", "  leaves: 65\n  switch:"))
    assert "a spine needs 65 ports, one for each leaf, and has 64" in leaves
    spines = problems(tmp_path, ("  switch:", "  leaves: 2\n  spines: 33\n  switch:"))
    assert "a leaf needs 33 ports, one for each spine, and has 32 to spare" in spines


def test_zones_that_are_too_small(tmp_path):
    message = problems(tmp_path, *two_zones(), ("count: 4", "count: 4000"))
    assert "2,020 ports are needed below 40 leaf switches, which offer 1,560" in message


def test_interzone_cables_need_ports_too(tmp_path):
    many = problems(tmp_path, *two_zones(("value: 20", "value: 41")))
    assert "an inter-zone switch needs 42 ports and has 40" in many
    few = problems(tmp_path, *two_zones(("value: 20", "value: 1")))
    assert "interzone_links_per_zone is 1, too few for 2 inter-zone switches" in few


def test_storage_in_two_zones_has_a_port_in_each(tmp_path):
    storage = "storage: {nodes: 2, nic: cx6-200g, nics: 1, ssd: nvme-15tb, ssds: 16}\nrental:"
    message = problems(tmp_path, *two_zones(), ("rental:", storage))
    assert "storage.nics is 1; in two zones a storage node has one port in each" in message


def test_an_option_is_checked_like_the_file():
    with pytest.raises(ScenarioError, match=r"--set nodes\.nic=cx8: nodes\.nic: no nic file named 'cx8'"):
        load_cluster("h800-2048", [Override.parse("nodes.nic=cx8")])
    assert load_cluster("h800-2048", [Override.parse("nodes.count=64")]).n_gpus == 512
