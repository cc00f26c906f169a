"""Rows summed up by family, and scenarios asked in several processes."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from ffsim.study import Scenario
from ffsim.study.families import FamilyGoal, Judged, rank_correlation, summarise
from ffsim.study.outcomes import ask_all


def judged(published, simulated, family="one"):
    rows = []
    for number, (ours, theirs) in enumerate(zip(simulated, published, strict=True)):
        error = None if ours is None else ours / theirs - 1
        rows.append(Judged(f"row {number}", family, theirs, ours, error, error is not None and abs(error) < 0.09))
    return rows


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(7)
    for ties in (100, 5, 2):
        first, second = rng.integers(0, ties, 30), rng.integers(0, ties, 30)
        assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second)[0], abs=1e-12)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == 0


def test_errors_of_a_family_by_hand():
    """Errors of 0, 5, 10 and 20 %: median 7.5, mean 8.75, the 90th percentile 0.7 of the way from 10 to 20."""
    (summary,) = summarise(judged([1, 1, 10, 100], [1, 1.05, 9, 120]), {})
    assert summary.median_abs_error_frac == pytest.approx(0.075)
    assert summary.mean_abs_error_frac == pytest.approx(0.0875)
    assert summary.p90_abs_error_frac == pytest.approx(0.17)
    assert (summary.worst_row, summary.within_tolerance) == ("row 3", 2)
    assert summary.rank_correlation is None


def test_a_family_with_an_unanswered_row_has_not_met_its_goals():
    goal = FamilyGoal(ranking=True, target_mean=0.5, target_rank=0.5)
    met, missed = summarise(
        [*judged([1, 2, 3], [1, 2, 3], "met"), *judged([1, 2, 3, 4], [1, 2, 3, None], "missed")],
        {"met": goal, "missed": goal},
    )
    assert met.missed == ()
    assert (missed.unanswered, missed.mean_abs_error_frac) == (1, 0)
    assert missed.missed == (
        "mean error of 50.0% cannot be told: 1 rows have no answer",
        "rank correlation of 0.5 cannot be told: 1 rows have no answer",
    )


def test_a_target_of_rank_needs_a_ranking():
    with pytest.raises(ValueError, match="add `ranking: true`"):
        FamilyGoal(target_rank=0.9)


@pytest.mark.slow
def test_processes_answer_as_one_does():
    asked = [
        Scenario(cluster=name, workload="tests/data/tiny-pretrain.yaml", overrides=("plan.gpus=64",), ranges=False)
        for name in ("h800-2048", "h800-2048-mrft", "nowhere", "h800-2048")
    ]
    alone, together = ask_all(asked), ask_all(asked, jobs=2)
    assert list(alone) == list(together) == asked[:3]
    assert {key: outcome.answer for key, outcome in alone.items()} == {
        key: outcome.answer for key, outcome in together.items()
    }
    assert together[asked[2]].problems == alone[asked[2]].problems != ()
