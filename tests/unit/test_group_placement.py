"""Which nodes groups get, and ranges as files and options write them."""

import numpy as np
import pytest

from ffsim.config.ranges import parse_counts, parse_sizes
from ffsim.errors import InfeasiblePlan, ModelDomainError
from ffsim.topology import SPREADINGS, build_topology, load_cluster, node_zones, place_groups


@pytest.fixture(scope="module")
def two_zones():
    return build_topology(load_cluster("fire-flyer-2"))


@pytest.fixture(scope="module")
def planes():
    return build_topology(load_cluster("h800-2048"))


@pytest.mark.parametrize("how", SPREADINGS)
@pytest.mark.parametrize(("n_nodes", "n_groups"), [(2, 1), (128, 4), (600, 2), (4, 150)])
def test_groups_share_no_node(two_zones, how, n_nodes, n_groups):
    placed = place_groups(two_zones, n_nodes, n_groups, how)
    assert placed.shape == (n_groups, n_nodes)
    assert len(np.unique(placed)) == n_nodes * n_groups
    assert placed.max() < 1250
    zones = node_zones(two_zones)[placed]
    if how == "in-zone":
        assert (zones.min(axis=1) == zones.max(axis=1)).all()
    if how == "cross-zone":
        assert (zones.mean(axis=1) == 0.5).all()


def test_a_spread_group_covers_the_cluster_evenly(planes):
    assert place_groups(planes, 4, 2, "spread").tolist() == [[0, 64, 128, 192], [32, 96, 160, 224]]
    assert place_groups(planes, 4, 2, "in-zone").tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("args", "error", "says"),
    [
        ((626, 1, "in-zone"), InfeasiblePlan, "626 are wanted and 625 are in one zone"),
        ((300, 5, "in-zone"), InfeasiblePlan, "1,500 are wanted and 1,200 are for groups of 300"),
        ((1252, 1, "cross-zone"), InfeasiblePlan, "626 are wanted and 625 are in each zone"),
        ((1251, 1, "spread"), InfeasiblePlan, "1,251 are wanted and 1,250 are in the cluster"),
        ((3, 1, "cross-zone"), ModelDomainError, "3 nodes do not split over two zones"),
    ],
)
def test_what_does_not_fit_is_refused(two_zones, args, error, says):
    with pytest.raises(error, match=says):
        place_groups(two_zones, *args)


def test_there_is_nothing_to_cross_without_zones(planes):
    with pytest.raises(ModelDomainError, match="h800-2048: placement: the fabric has no zones; use in-zone or spread"):
        place_groups(planes, 4, 1, "cross-zone")


def test_ranges_grow_and_lists_stay_as_they_are():
    assert parse_counts("2:128") == (2, 4, 8, 16, 32, 64, 128)
    assert parse_counts("2:100:7, 3") == (2, 14, 98, 3)
    assert parse_counts(16) == (16,)
    assert parse_sizes("1MiB:1GiB:32") == (2.0**20, 2.0**25, 2.0**30)
    assert parse_sizes(["186 MiB", "1 kB:4kB"]) == (186 * 2.0**20, 1e3, 2e3, 4e3)


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "2.5", "4:2", "2:8:1", "2:8:0", "2:8:2:2", "2:", 1.5, True, None])
def test_bad_counts(text):
    with pytest.raises(ValueError, match=r": "):
        parse_counts(text)


@pytest.mark.parametrize("text", ["", "100", 100, "1 Mb", "0 B:1 GB", "1 GB:1 MB", "1 B:1e29 B:2, 1e400 B", []])
def test_bad_sizes(text):
    with pytest.raises(ValueError, match=r": "):
        parse_sizes(text)
