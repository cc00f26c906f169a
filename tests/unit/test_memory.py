"""What every GPU holds: by hand for a small model, as published for large ones, and plans that are known not to fit."""

from pathlib import Path

import pytest

from ffsim.errors import InfeasiblePlan
from ffsim.study import Scenario, run
from ffsim.study.validation import shipped_rows, validate

DATA = Path(__file__).parents[1] / "data"
TINY = ("h800-2048", str(DATA / "tiny-1f1b.yaml"))
LAYER = 2 * 1024 * 1024 + 2 * 1024 * 256 + 3 * 1024 * 2816 + 2 * 1024  # q, o; k, v; SwiGLU; norms
PARAMETERS = 8 * LAYER + 2 * 8192 * 1024 + 1024  # and embedding, head, last norm
ON_ONE_RANK = ("plan.pp=1", "plan.gpus=4")


def ranks(*overrides, names=TINY):
    scenario = Scenario(cluster=names[0], workload=names[1], overrides=overrides, depth="bounds", ranges=False)
    return run(scenario).step.prepared.memory


def states(rank):
    return [rank.by_kind[kind] for kind in ("weights", "gradients", "optimizer")]


@pytest.mark.parametrize(
    ("zero", "bytes_each"),
    [(0, (2, 4, 12)), (1, (2, 4, 12 / 4)), (2, (2, 4 / 4, 12 / 4)), (3, (2 / 4, 4 / 4, 12 / 4))],
)
def test_each_level_of_zero_shares_one_more_state_over_four_ranks(zero, bytes_each):
    (rank,) = ranks(*ON_ONE_RANK, f"plan.zero={zero}")
    assert states(rank) == [PARAMETERS * each for each in bytes_each]


def test_what_is_shared_is_whole_while_it_is_used():
    whole = [ranks(*ON_ONE_RANK, f"plan.zero={zero}", "plan.bucket=1 MB")[0].by_kind["gathered"] for zero in range(4)]
    embedding = 8192 * 1024
    assert whole[:3] == [0, 0, 2 * 1e6]
    assert whole[3] == max(embedding, LAYER) * 2 + max(embedding, LAYER) * 4
    ahead = ranks(*ON_ONE_RANK, "plan.zero=3", "plan.overlap.parameters=true")[0].by_kind["gathered"]
    assert ahead == 2 * LAYER * 2 + LAYER * 4  # a layer and the next one


def test_an_offloaded_optimizer_moves_to_the_host():
    on_pcie = ("fire-flyer-2", TINY[1])  # whose hosts are described
    here, there = (ranks(*ON_ONE_RANK, f"plan.offload={where}", names=on_pcie)[0] for where in ("none", "optimizer"))
    assert there.by_kind["optimizer"] == 0
    assert there.host_bytes == here.by_kind["optimizer"] == PARAMETERS * 12 / 4
    assert here.host_bytes == 0


def test_weight_gradients_put_off_hold_their_inputs_longer():
    overrides = ("global_batch=64", "plan.gpus=4")
    held = {
        name: max(rank.by_kind["activations"] for rank in ranks(*overrides, f"plan.schedule={name}"))
        for name in ("1f1b", "zb-h1", "zb-h2", "gpipe")
    }
    assert held["1f1b"] < held["zb-h2"] < held["gpipe"]
    assert held["1f1b"] <= held["zb-h1"] < held["zb-h2"]


def test_activations_fall_with_every_layer_that_is_recomputed():
    kept = [
        ranks("plan.recompute=full", f"plan.recompute_layers={layers}")[1].by_kind["activations"]
        for layers in (0, 1, 2)
    ]
    none = ranks("plan.recompute=none")[1].by_kind
    everything = ranks("plan.recompute=full")[1].by_kind
    assert kept[0] == none["activations"]
    assert kept[0] - kept[1] == pytest.approx(kept[1] - kept[2])
    assert kept[2] == everything["activations"] < kept[1] < kept[0]
    assert none["replay"] == 0 < everything["replay"]


@pytest.mark.slow
def test_megatron_holds_what_was_published():
    """Parameters, optimizer and activations of 22B to 1T, and which of those plans fit (arXiv 2205.05198 Figure 1)."""
    families = {"Megatron memory", "plans that do not fit"}
    verdicts = validate([row for row in shipped_rows() if row.family in families])
    assert len(verdicts) >= 15
    assert [verdict for verdict in verdicts if not verdict.passed] == []


@pytest.mark.slow
def test_v3_trains_in_80_gb_without_tensor_parallelism(v3):
    assert v3.step.prepared.layout.tp == 1
    assert 0 < v3.headline["memory_margin_bytes"] == 80e9 - v3.headline["peak_memory_bytes"]
    assert v3.headline["memory_margin_frac"] == pytest.approx(v3.headline["memory_margin_bytes"] / 80e9)


@pytest.mark.slow
@pytest.mark.parametrize("workload", ["megatron-22b-selene", "gpt3-175b-megatron"])
def test_megatron_without_recomputation_is_refused_with_a_change_that_fits(workload):
    with pytest.raises(InfeasiblePlan, match=r"of 80 GB .*activations \d.*cheapest change that fits: --set"):
        ranks("plan.recompute=none", names=("selene", workload))
