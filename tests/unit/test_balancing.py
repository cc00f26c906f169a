"""Routers on synthetic tokens: loads, balancing, nodes touched, and the figure."""

from math import sqrt

import numpy as np
import pytest

from ffsim.collectives import Routing, experts_per_node_at_same_cost
from ffsim.model import functions as f
from ffsim.model.balancing import balance, balance_loss, loss_gradient, updated_bias
from ffsim.model.routing_load import choose, expert_loads, parts_touched, population, zipf_loads
from ffsim.model.spec import Moe
from ffsim.report.load_figures import load_over_steps
from ffsim.topology import load_cluster

SIGMOID = Moe(first_dense=0, routed=32, shared=0, top_k=4, width=16, scoring="sigmoid", bias=True, normalise=True)
SOFTMAX = Moe(first_dense=0, routed=32, shared=0, top_k=4, width=16, groups=4, top_groups=2)
V3 = Moe(
    first_dense=0,
    routed=256,
    shared=1,
    top_k=8,
    width=16,
    groups=8,
    top_groups=4,
    scoring="sigmoid",
    bias=True,
    normalise=True,
)
TOKENS = 1024
SCATTER = 1 + 3 * sqrt(SIGMOID.routed / (TOKENS * SIGMOID.top_k))  # three deviations of a load that is even on average


def balanced(moe, method, rate, *, n_steps=80, seed=0):
    layers = [population(moe.routed, np.random.default_rng(1))]
    return balance(moe, layers, method, rate, n_steps=n_steps, n_tokens=TOKENS, rng=np.random.default_rng(seed))


@pytest.fixture(scope="module")
def by_bias():
    return balanced(SIGMOID, "bias", 0.005)


@pytest.fixture(scope="module")
def by_loss():
    return balanced(SIGMOID, "auxiliary loss", 1.0)


# --- tokens and loads -------------------------------------------------------------------------------------------------


def test_skew_is_what_was_asked_for():
    """Popularity 0.5: a softmax gate's mean scores are about log-normal with that deviation."""
    rng = np.random.default_rng(0)
    even, skewed = (population(2000, rng, popularity=p, topics=1, hidden=129) for p in (0.0, 0.5))
    assert not even.gate[:, 0].any()
    assert skewed.gate[:, 0].std() == pytest.approx(0.5, rel=0.05)
    shares = population(8, rng, topics=4, zipf=1.0).topic_share
    np.testing.assert_allclose(shares, np.array([12, 6, 4, 3]) / 25)
    tokens = skewed.draw(500, rng)
    assert (tokens[:, 0] == 1).all()
    assert (tokens[:, 1:] - skewed.topics[0]).std() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("moe", [SIGMOID, SOFTMAX, V3], ids=["sigmoid", "softmax", "v3"])
def test_every_token_gets_its_experts(moe):
    rng = np.random.default_rng(2)
    tokens = population(moe.routed, rng)
    chosen = choose(moe, f.gate_scores(f.linear(tokens.draw(300, rng), tokens.gate), moe.scoring))
    assert expert_loads(chosen, moe.routed).sum() == 300 * moe.top_k
    assert all(len(set(row)) == moe.top_k for row in chosen.tolist())


def test_zipf_loads_fall_with_rank_and_differ_between_layers():
    loads = zipf_loads(3, 4, 1.0, np.random.default_rng(0))
    np.testing.assert_allclose(-np.sort(-loads), np.tile(np.array([12, 6, 4, 3]) * 4 / 25, (3, 1)))
    assert len({tuple(row) for row in loads.tolist()}) > 1
    assert (zipf_loads(2, 8, 0.0, np.random.default_rng(0)) == 1).all()


# --- balancing --------------------------------------------------------------------------------------------------------


def test_the_bias_evens_loads_out_down_to_their_scatter(by_bias):
    uneven = by_bias.max_over_mean[:, 0]
    assert uneven[0] > 2.5
    assert uneven[-20:].mean() < SCATTER == pytest.approx(1.265, abs=1e-3)


@pytest.mark.slow
def test_so_does_the_auxiliary_loss(by_loss):
    uneven = by_loss.max_over_mean[:, 0]
    assert uneven[0] > 2.5
    assert uneven[-20:].mean() < SCATTER


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_the_auxiliary_loss_on_a_softmax_gate_with_groups(rate):
    uneven = balanced(SOFTMAX, "auxiliary loss", rate).max_over_mean[:, 0]
    assert uneven[0] > 2.5
    assert uneven[-20:].mean() < 1.35


def test_equal_balance_costs_the_bias_fewer_of_the_chosen_scores(by_bias, by_loss):
    """What arXiv 2408.15664 argues for: the loss moves the gate itself."""
    assert by_bias.quality_frac[0, 0] == by_loss.quality_frac[0, 0] == 1
    lost_by_bias, lost_by_loss = (1 - run.quality_frac[-20:].mean() for run in (by_bias, by_loss))
    assert 0.02 < lost_by_bias < 0.75 * lost_by_loss


def test_no_token_is_lost_and_the_same_seed_gives_the_same_loads(by_bias):
    assert (by_bias.loads.sum(axis=2) == TOKENS * SIGMOID.top_k).all()
    again = balanced(SIGMOID, "bias", 0.005, n_steps=3)
    np.testing.assert_array_equal(again.loads, by_bias.loads[:3])
    assert (balanced(SIGMOID, "bias", 0.005, n_steps=1, seed=9).loads != again.loads[:1]).any()


def test_layers_draw_apart():
    """A second layer does not shift the tokens of the first."""
    layers = [population(32, np.random.default_rng(seed)) for seed in (1, 2)]
    short = {"n_steps": 2, "n_tokens": 64}
    one, two = (balance(SIGMOID, layers[:n], "bias", 0.005, **short, rng=np.random.default_rng(0)) for n in (1, 2))
    np.testing.assert_array_equal(one.loads[:, 0], two.loads[:, 0])


def test_runs_are_tidy_rows(by_bias):
    rows = list(by_bias.rows())
    assert len(rows) == 80
    assert rows[0] == {"step": 0, "layer": 0, "max_over_mean": by_bias.max_over_mean[0, 0], "quality_frac": 1.0}


def test_the_bias_moves_by_its_rate_against_the_load():
    moved = updated_bias(np.array([0.1, 0.1, 0.1]), np.array([9, 6, 3]), 0.01)
    np.testing.assert_allclose(moved, [0.09, 0.1, 0.11])


@pytest.mark.parametrize("moe", [SIGMOID, SOFTMAX], ids=["sigmoid", "softmax"])
def test_the_gradient_of_the_balance_loss_against_differences(moe):
    rng = np.random.default_rng(4)
    gate, x, loads = rng.standard_normal((32, 5)), rng.standard_normal((20, 5)), rng.integers(1, 9, 32)
    found = loss_gradient(moe, gate, x, loads)

    def loss(changed):
        return balance_loss(f.gate_scores(f.linear(x, changed), moe.scoring), loads)

    for expert, column in ((0, 0), (7, 3), (31, 4)):
        step = np.zeros_like(gate)
        step[expert, column] = 1e-6
        assert found[expert, column] == pytest.approx((loss(gate + step) - loss(gate - step)) / 2e-6, rel=1e-4)


def test_the_balance_loss_of_even_loads_is_one():
    scores = np.random.default_rng(0).random((10, 4))
    assert balance_loss(scores, np.full(4, 10)) == pytest.approx(1)
    assert balance_loss(np.array([[0.7, 0.3]]), np.array([3, 1])) == pytest.approx(0.7 * 1.5 + 0.3 * 0.5)


def test_the_figure_says_what_it_shows(by_bias, by_loss):
    svg = load_over_steps([by_bias, by_loss])
    start, end = by_bias.max_over_mean[0, 0], by_bias.max_over_mean[-8:].mean()
    assert f"bias from {start:.1f} to {end:.1f}, giving up" in svg
    assert "load of the busiest expert over the mean" in svg
    assert svg == load_over_steps([by_bias, by_loss])


# --- nodes ------------------------------------------------------------------------------------------------------------


def test_nodes_touched_without_a_limit_are_the_closed_form():
    """8 of 256 at random reach 8 (1 - C(224, 8) / C(256, 8)) of 8 nodes."""
    free = Moe(first_dense=0, routed=256, shared=0, top_k=8, width=16)
    chosen = choose(free, np.random.default_rng(0).random((4000, 256)))
    found = parts_touched(chosen, 256, 8)
    assert found.per_token == pytest.approx(Routing(experts=256, top_k=8).touched(8), rel=0.005)
    assert found.experts_per_part == pytest.approx(8 / found.per_token)
    assert found.most == 8


def test_a_token_of_v3_touches_four_nodes_with_two_experts_each():
    """The limit holds; a gate fills it, where equally likely experts would touch 3.6 nodes."""
    rng = np.random.default_rng(0)
    tokens = population(256, rng)
    scores = f.gate_scores(f.linear(tokens.draw(2000, rng), tokens.gate), "sigmoid")
    found = parts_touched(choose(V3, scores), 256, 8)
    assert found.most == 4
    assert found.per_token == pytest.approx(3.95, abs=0.04)
    assert found.experts_per_part == pytest.approx(8 / 3.95, rel=0.01)
    assert found.experts_per_part < experts_per_node_at_same_cost(load_cluster("h800-2048")) == pytest.approx(3.2)
    free = Moe(first_dense=0, routed=256, shared=1, top_k=8, width=16, scoring="sigmoid", bias=True)
    assert parts_touched(choose(free, scores), 256, 8).per_token > 1.2 * found.per_token


def test_parts_reached_by_uneven_loads_against_counting():
    """The model of the traffic: within 0.02 for ranks up to twice the mean load, within 0.1 for nodes."""
    rng = np.random.default_rng(0)
    tokens = population(256, rng, popularity=0.3)
    chosen = choose(V3, f.gate_scores(f.linear(tokens.draw(4000, rng), tokens.gate), "sigmoid"))
    routing = Routing(experts=256, top_k=8, groups=8, top_groups=4)
    for parts, tolerance in ((8, 0.1), (64, 0.02)):
        load = expert_loads(chosen, 256).reshape(parts, -1).sum(axis=1) / (4000 * 8 / parts)
        reached = [(chosen // (256 // parts) == part).any(axis=1).mean() for part in range(parts)]
        wrong = np.abs(routing.touched_unevenly(load) - reached)
        assert load.max() > 1.3
        assert wrong[load < 2].max() < tolerance
