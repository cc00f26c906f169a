"""Stated expert loads: what they make of rows, traffic, memory and the step, and files that state them badly."""

from pathlib import Path

import numpy as np
import pytest

from ffsim.collectives import Reach, Routing, expert_exchange
from ffsim.config import Source
from ffsim.errors import InfeasiblePlan, ScenarioError
from ffsim.study import Scenario, run
from ffsim.training.expert_loads import ExpertTokens, expert_load, read_expert_tokens
from ffsim.training.spec import ExpertLoadSpec

DATA = Path(__file__).parents[1] / "data"
MOE = str(DATA / "tiny-pretrain.yaml")  # 32 experts, 4 a token, in 4 groups, on 16 ranks of 2 nodes
DENSE = str(DATA / "tiny-1f1b.yaml")
SOURCE = Source(ref="test", kind="derived")
FOUR = Routing(experts=4, top_k=1)
IN_ORDER = ExpertLoadSpec(file="-")


def simulated(*overrides, workload=MOE, depth="folded", ranges=False):
    return run(Scenario(cluster="h800-2048", workload=workload, overrides=overrides, depth=depth, ranges=ranges))


def tokens(*layers):
    return ExpertTokens(np.array(layers, dtype=float), SOURCE)


# --- what loads come to -----------------------------------------------------------------------------------------------


def test_each_layer_waits_for_its_own_busiest_rank():
    """Four experts on two ranks: 6 + 2 against 1 + 3 of mean 6, then the other way round with less skew."""
    load = expert_load(tokens([6, 2, 1, 3], [2, 3, 3, 4]), IN_ORDER, FOUR, 1, 2, 1)
    assert load.busiest_over_mean == pytest.approx((8 / 6 + 7 / 6) / 2)
    assert load.fullest_over_mean == pytest.approx(8 / 6)


def test_memory_holds_what_one_rank_gets_over_the_layers_of_its_stage():
    """Rank 0 gets 8 of a mean 6 in one layer and 5 in the next: 13 of 12 where both lie on it."""
    load = expert_load(tokens([6, 2, 1, 3], [2, 3, 3, 4]), IN_ORDER, FOUR, 1, 2, 2)
    assert load.fullest_over_mean == pytest.approx(13 / 12)


def test_even_loads_reach_as_far_as_balanced_experts():
    routing = Routing(experts=256, top_k=8, groups=8, top_groups=4)
    even, balanced = expert_load(tokens([5] * 256), IN_ORDER, routing, 8, 8, 1), routing.reach(8, 8)
    assert even.busiest_over_mean == even.fullest_over_mean == 1
    for name in Reach.__slots__:
        assert getattr(even.reach, name) == pytest.approx(getattr(balanced, name), rel=1e-12)


def test_one_busy_expert_fills_its_node():
    """One expert a token: a rank's share of the tokens is about its share of the rows, and saturates below it."""
    reach = expert_load(tokens([2, 1, 0.5, 0.5]), IN_ORDER, FOUR, 2, 2, 1).reach
    assert reach.fullest_rank == pytest.approx(1 - 0.75**2)
    assert reach.fullest_node == pytest.approx(1 - 0.5**1.5)
    assert reach.fullest_node_ranks == pytest.approx(1 - 0.75**2 + 0.25)
    assert reach.nodes <= 1
    assert reach.ranks <= 1


def test_packing_evens_out_what_it_can_and_copies_do_the_rest():
    skewed = tokens([8, 1, 1, 1, 1, 1, 1, 2])
    routing = Routing(experts=8, top_k=2)
    in_order, packed, copied = (
        expert_load(skewed, placing, routing, 1, 4, 1).busiest_over_mean
        for placing in (
            IN_ORDER,
            ExpertLoadSpec(file="-", placement="eplb"),
            ExpertLoadSpec(file="-", placement="eplb", redundant_experts=4),
        )
    )
    assert in_order == pytest.approx(9 / 4)
    assert packed == pytest.approx(9 / 4)  # the busy expert is two ranks' worth by itself
    assert copied == pytest.approx(1.0, abs=0.25)


def test_packing_that_tears_groups_apart_limits_no_nodes():
    """Three nodes do not divide eight groups: a token may then reach all of them."""
    routing = Routing(experts=24, top_k=4, groups=8, top_groups=1)
    torn = expert_load(tokens([1] * 24), ExpertLoadSpec(file="-", placement="eplb"), routing, 3, 2, 1).reach
    assert torn.nodes == pytest.approx(Routing(experts=24, top_k=4).touched(3))


def test_the_fullest_receivers_get_their_share_and_no_byte_is_lost():
    reach = Reach(nodes=1.5, ranks=2.0, fullest_node=0.9, fullest_node_ranks=1.2, fullest_rank=0.8)
    np.testing.assert_allclose(reach.of_nodes(2), [0.9, 0.6])
    np.testing.assert_allclose(reach.of_ranks(2, 2), [0.8, 0.4, 0.4, 0.4])
    (step,) = expert_exchange("dispatch", 2, 2, reach, token_bytes=10.0, tokens=100).steps
    far = step.src // 2 != step.dst // 2
    into = np.bincount(step.dst[far], step.bytes_[far], minlength=4)
    np.testing.assert_allclose(into, [900, 900, 600, 600])  # of 1,000 bytes each from the same place on the other node
    handed_on = np.bincount(step.dst[~far], step.bytes_[~far], minlength=4)
    np.testing.assert_allclose(handed_on, [1600, 800, 800, 800])


# --- the step ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_balanced_loads_are_an_assumed_load_of_one():
    stated = simulated("expert_loads.zipf=0")
    assumed = simulated("assumptions.expert_load={value: 1, source: {ref: test, kind: derived}}")
    for name in ("step_s", "peak_memory_bytes"):
        assert stated.headline[name] == pytest.approx(assumed.headline[name], rel=1e-12)


@pytest.mark.slow
def test_skew_slows_the_step_and_placement_wins_part_of_it_back():
    even, skewed, packed, copied = (
        simulated("expert_loads.zipf=0"),
        simulated("expert_loads.zipf=0.8"),
        simulated("expert_loads.zipf=0.8", "expert_loads.placement=eplb"),
        simulated("expert_loads.zipf=0.8", "expert_loads.placement=eplb", "expert_loads.redundant_experts=16"),
    )
    steps = [result.step.step_s for result in (even, copied, packed, skewed)]
    assert steps == sorted(steps)
    assert steps[-1] > 1.1 * steps[0]
    assert steps[-1] - steps[1] > 0.5 * (steps[-1] - steps[0])
    weights = [max(rank.by_kind["weights"] for rank in r.step.prepared.memory) for r in (packed, copied)]
    assert weights[1] > weights[0]  # a copy needs the memory of an expert
    for result in (skewed, copied):
        bounds = result.step.bounds
        assert bounds.lower < result.step.step_s < bounds.upper


@pytest.mark.slow
def test_products_of_the_experts_grow_with_the_busiest_rank_and_shrink_with_copies():
    even, skewed, copied = (
        simulated(*overrides, depth="bounds").step.prepared.pieces.lowered["moe"].operators
        for overrides in (
            ("expert_loads.zipf=0",),
            ("expert_loads.zipf=0.8",),
            ("expert_loads.zipf=0", "expert_loads.placement=eplb", "expert_loads.redundant_experts=16"),
        )
    )
    grouped = (even.family == "grouped_gemm") & (even.phase == "F")
    assert (skewed.m[grouped] > 1.5 * even.m[grouped]).all()
    assert (copied.groups[grouped] == 1.5 * even.groups[grouped]).all()  # 48 slots for 32 experts
    np.testing.assert_allclose(copied.m[grouped], even.m[grouped] / 1.5, rtol=2e-3)


@pytest.mark.slow
def test_the_assumption_no_longer_matters_where_loads_are_stated(tiny):
    stated = simulated("expert_loads.zipf=0.3", ranges=True)
    assert "assumptions.expert_load" in {row.name for row in tiny.doubt.sensitivities}
    assert "assumptions.expert_load" not in {row.name for row in stated.doubt.sensitivities}
    assert {"input": "expert loads", "source": "drawn: rank^-0.3 in every layer, seed 0 (assumed)"} in stated.sources()


@pytest.mark.slow
def test_every_rank_by_itself_agrees_with_one_for_all():
    skew = ("expert_loads.zipf=0.5",)
    folded, full = (simulated(*skew, depth=depth).step.step_s for depth in ("folded", "full"))
    assert full == pytest.approx(folded, rel=1e-9)


def test_with_all_experts_on_one_rank_no_load_is_uneven():
    skewed, even = (simulated("plan.ep=1", f"expert_loads.zipf={zipf}", depth="bounds").headline for zipf in (1, 0))
    assert skewed == even


# --- files ------------------------------------------------------------------------------------------------------------


def write(path, loads, layers):
    rows = zip(
        np.repeat(layers, len(loads[0])), np.tile(range(len(loads[0])), len(loads)), np.ravel(loads), strict=True
    )
    path.write_text("\n".join(["layer,expert,tokens", *(f"{layer},{expert},{load}" for layer, expert, load in rows)]))
    return path


@pytest.mark.slow
def test_a_file_of_loads_is_simulated_as_those_loads(tmp_path):
    drawn = simulated("expert_loads.zipf=0.8", depth="bounds")
    loads = drawn.step.prepared.inputs.expert_tokens.loads
    path = write(tmp_path / "loads.csv", loads.tolist(), range(1, 9))
    stated = simulated(f"expert_loads.file={path}", depth="bounds")
    assert stated.step.step_s == drawn.step.step_s
    path.write_text(path.read_text().replace("1,0,", "1,0,9"))
    other = simulated(f"expert_loads.file={path}", depth="bounds")
    prints = {result.to_dict()["provenance"]["scenario_sha256"] for result in (stated, other)}
    assert len(prints) == 2


def test_a_file_may_name_some_layers_only(tmp_path):
    path = write(tmp_path / "loads.csv", [[1, 2], [3, 0]], [4, 2])
    np.testing.assert_array_equal(read_expert_tokens(path, range(1, 9), 2).loads, [[3, 0], [1, 2]])


def test_everything_wrong_with_a_file_is_said_at_once(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text(
        "layer,expert,tokens\n1,0,5\n1,0,6\n1,2,5\n0,0,1\n1,x,1\n1,1\n1,1,-2\n1,1,nan\n\n2,0,0\n2,1,0\n3,1,7\n"
    )
    with pytest.raises(ScenarioError) as error:
        read_expert_tokens(path, range(1, 4), 2)
    assert str(error.value).replace(str(path), "bad.csv").splitlines() == [
        "bad.csv:3: layer 1, expert 0 stands here a second time",
        "bad.csv:4: expert 2 of 2, counted from 0",
        "bad.csv:5: layer 0 has no experts, layers 1 to 3 do",
        "bad.csv:6: got '1,x,1', expected two whole numbers and a number of tokens",
        "bad.csv:7: got '1,1', expected two whole numbers and a number of tokens",
        "bad.csv:8: -2 tokens for an expert: must be 0 or more and finite",
        "bad.csv:9: nan tokens for an expert: must be 0 or more and finite",
        "bad.csv: layer 1 lacks 1 of 2 experts: 1",
        "bad.csv: layer 2 has no tokens at all",
        "bad.csv: layer 3 lacks 1 of 2 experts: 0",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1: got '' for the names of the columns; use layer,expert,tokens"),
        ("expert,load\n1,2\n", "1: got 'expert,load' for the names of the columns; use layer,expert,tokens"),
        ("layer,expert,tokens\n", " no loads; add a row for every expert of a layer"),
        (b"\xff\xfe", " cannot be read: "),
    ],
)
def test_files_that_hold_no_loads(tmp_path, text, message):
    path = tmp_path / "bad.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ScenarioError) as error:
        read_expert_tokens(path, range(1, 4), 2)
    assert f"bad.csv:{message}" in str(error.value)


@pytest.mark.parametrize(
    ("workload", "overrides", "message"),
    [
        (MOE, ["expert_loads.file=nowhere.csv"], "nowhere.csv: cannot be read"),
        (MOE, ["expert_loads.placement=eplb"], "give one of `file:` and `zipf:`"),
        (MOE, ["expert_loads.zipf=1", "expert_loads.file=a.csv"], "give one of `file:` and `zipf:`"),
        (MOE, ["expert_loads.zipf=1", "expert_loads.redundant_experts=16"], "add `placement: eplb`"),
        (MOE, ["expert_loads.zipf=-1"], "expert_loads.zipf: must be at least 0, got -1"),
        (MOE, ["expert_loads.zipf=11"], "expert_loads.zipf: must be at most 10, got 11"),
        (DENSE, ["expert_loads.zipf=1"], "has no experts; leave `expert_loads:` out"),
    ],
)
def test_loads_that_make_no_sense(workload, overrides, message):
    with pytest.raises(ScenarioError) as error:
        simulated(*overrides, workload=workload)
    assert message in str(error.value)


@pytest.mark.parametrize(("copies", "ep"), [(8, 16), (16, 1)])
def test_copies_must_spread_over_the_ranks(copies, ep):
    overrides = ("expert_loads.zipf=1", "expert_loads.placement=eplb", f"expert_loads.redundant_experts={copies}")
    with pytest.raises(InfeasiblePlan, match=f"{copies} redundant experts do not spread over {ep} ranks"):
        simulated(*overrides, f"plan.ep={ep}")
