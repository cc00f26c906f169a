"""Schedules: laws that every one must keep, closed forms, and how far the formulas are off elsewhere."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffsim.schedules import (
    SCHEDULES,
    OpTimes,
    dualpipe,
    dualpipe_bubble,
    one_f_one_b_bubble,
    replay,
    zb1p_bubble,
)

UNIT = OpTimes(forward=1, input_gradient=1, weight_gradient=1)
COSTS = [(1, 1, 1), (1, 1, 6), (2, 8, 1), (3, 3, 2), (4, 1, 3), (5, 4, 1), (7, 1, 9), (8, 9, 5), (9, 4, 6), (10, 16, 8)]


def times_of(cost):
    return OpTimes(forward=cost[0], input_gradient=cost[1], weight_gradient=cost[2])


def chunks_of(name):
    return 2 if SCHEDULES[name].stages_per_rank is None else 1


@st.composite
def schedules(draw):
    name = draw(st.sampled_from(sorted(SCHEDULES)))
    pp = draw(st.integers(1, 4)) * 2
    n = 2 * pp + (pp if name == "interleaved" else 2) * draw(st.integers(0, 3))
    chunks = draw(st.integers(2, 3)) if name == "interleaved" else 1
    cost = draw(st.tuples(*[st.integers(1, 9)] * 3))
    return SCHEDULES[name].build(pp, n, chunks=chunks, times=times_of(cost), message_s=draw(st.integers(0, 2)))


@given(schedules())
def test_every_micro_batch_passes_every_stage_forward_then_backward_then_weights(schedule):
    ends = 2 if schedule.both_ends else 1
    expected = {
        (direction, stage, end, chunk)
        for direction in "FB"
        for stage in range(schedule.n_stages)
        for end in range(ends)
        for chunk in range(schedule.n_micro_batches // ends)
    }
    assert set(schedule.producers) == expected
    for rank, ops in enumerate(schedule.ops):
        done = set()
        for op in ops:
            if op.backward is not None:
                assert ("F", *op.backward) in done, (rank, op)
                done.add(("Bi" if op.kind == "Bi" else "B", *op.backward))
            if op.kind == "W":
                assert ("Bi", op.module, op.chunk) in done
                done.add(("B", op.module, op.chunk))
            if op.forward is not None:
                done.add(("F", *op.forward))
        assert sum(step[0] == "F" for step in done) == sum(step[0] == "B" for step in done)


@given(schedules())
def test_every_message_has_two_ends(schedule):
    sends = [(r, m.peer) for r, groups in enumerate(schedule.messages) for g in groups for m in g if m.end == "s"]
    receives = [(m.peer, r) for r, groups in enumerate(schedule.messages) for g in groups for m in g if m.end == "r"]
    assert sorted(sends) == sorted(receives)


@given(schedules(), st.floats(0, 2))
def test_messages_that_hold_up_more_take_no_less_time(schedule, latency):
    spans = [
        replay(schedule, UNIT, latency=latency, messages=messages).makespan
        for messages in ("overlapped", "blocking", "rendezvous")
    ]
    assert spans[0] <= spans[1] + 1e-9
    assert spans[1] <= spans[2] + 1e-9


def bubbles(name, pp, n, cost):
    """Replayed and by the closed form."""
    family, times, chunks = SCHEDULES[name], times_of(cost), chunks_of(name)
    played = replay(family.build(pp, n, chunks=chunks, times=times), times)
    return max(played.bubble), family.bubble(pp, n, chunks, times)


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "interleaved", "zb-h1", "zb-1.5p", "zb-h2"])
def test_bubble_forms_that_are_exact_for_any_durations_from_one_micro_batch_per_rank_on(name):
    for pp, rounds, cost in product((1, 2, 3, 5), (1, 2, 3), COSTS):
        replayed, form = bubbles(name, pp, rounds * pp, cost)
        assert replayed == pytest.approx(form, abs=1e-9), (pp, rounds, cost)


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "zb-h1", "zb-1.5p", "zb-h2"])
def test_fewer_micro_batches_than_ranks(name):
    """ZB's forms are exact for one micro-batch, else within what their docstrings say."""
    for n, cost in product((1, 2, 3, 5), COSTS):
        replayed, form = bubbles(name, 6, n, cost)
        slack = 0.5 * sum(cost) if name.startswith("zb") and n > 1 else 0
        assert form - slack - 1e-9 <= replayed <= form + 1e-9, (n, cost)


def test_the_zb_v_form_is_off_by_no_more_than_it_says():
    for pp, rounds, cost in product((1, 2, 3, 5), (2, 3), COSTS):
        replayed, form = bubbles("zb-v", pp, rounds * pp, cost)
        f, b, _ = cost
        low, high = (0, 0) if f == b else (0.25, 0.25) if f < b else (0, (pp - 1) * (f - b) / sum(cost))
        assert form - low * sum(cost) - 1e-9 <= replayed <= form + high * sum(cost) + 1e-9, (pp, rounds, cost)
    assert SCHEDULES["zb-v"].bubble(4, 7, 1, UNIT) is None


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "interleaved", "dualpipe", "dualpipev", "zb-h1"])
def test_activation_forms_that_are_exact(name):
    family, chunks = SCHEDULES[name], chunks_of(name)
    for pp, rounds, cost in product((2, 4, 6), (2, 3), COSTS):
        schedule = family.build(pp, rounds * pp, chunks=chunks, times=times_of(cost))
        held = [peak / family.stages(chunks) for peak in schedule.peak_activations(until_weight_gradient=True)]
        assert held == list(family.activations(pp, rounds * pp, chunks)), (pp, rounds, cost)


@pytest.mark.parametrize("name", ["zb-h1", "zb-1.5p", "zb-h2", "zb-v", "1f1b-v", "v-half", "v-min"])
def test_activation_forms_that_are_limits(name):
    """No rank holds more, and for equal durations and enough micro-batches all hold as much."""
    family = SCHEDULES[name]
    for pp, n, cost in product((1, 2, 3, 5), (1, 2, 4, 7, 10), COSTS):
        schedule = family.build(pp, n, times=times_of(cost), message_s=1)
        peaks = schedule.peak_activations(until_weight_gradient=True)
        limits = family.activations(pp, n, 1)
        assert all(peak / family.stages() <= limit for peak, limit in zip(peaks, limits, strict=True))
    full = family.build(4, 16).peak_activations(until_weight_gradient=True)
    assert tuple(peak / family.stages() for peak in full) == family.activations(4, 16, 1)


@pytest.mark.parametrize("pp", range(1, 17))
@pytest.mark.parametrize("name", ["1f1b-v", "v-half", "v-min"])
def test_blocks_repeat_for_any_number_of_ranks_and_micro_batches(name, pp):
    """Every operation once, no deadlock, and with enough micro-batches some rank holds what the closed form says."""
    family = SCHEDULES[name]
    for n in sorted({1, 2, 3, pp - 1 or 1, pp, 2 * pp - 1, 2 * pp, 40}):
        schedule = family.build(pp, n)
        assert all(len(set(ops)) == len(ops) == (6 if family.splits_backward else 4) * n for ops in schedule.ops)
        assert replay(schedule, UNIT).makespan >= 6 * n
        held = max(schedule.peak_activations(until_weight_gradient=True)) / 2
        limit = family.activations(pp, n, 1)[0]
        assert held == limit if n >= 2 * pp else held <= limit


@pytest.mark.parametrize("pp", range(1, 17))
@pytest.mark.parametrize(("name", "rounds"), [("v-half", 2), ("v-min", 1)])
def test_the_forms_of_blocks_are_exact_for_equal_durations_from_so_many_micro_batches_per_rank_on(name, rounds, pp):
    family, times = SCHEDULES[name], times_of((3, 3, 3))
    for n in (rounds * pp, rounds * pp + 1, 3 * pp + 1, 4 * pp):
        assert max(replay(family.build(pp, n), times).bubble) == family.bubble(pp, n, 1, times)
    assert family.bubble(4, 4 * rounds - 1, 1, times) is None
    assert family.bubble(4, 8, 1, times_of((3, 3, 2))) is None


@pytest.mark.parametrize("name", ["1f1b-v", "v-half", "v-min"])
def test_blocks_do_not_depend_on_durations(name):
    family = SCHEDULES[name]
    assert family.build(4, 12, times=times_of((1, 7, 3)), message_s=2).ops == family.build(4, 12).ops


def test_blocks_hold_two_thirds_a_half_and_a_third_of_1f1b():
    held = {name: max(SCHEDULES[name].activations(24, 72, 1)) for name in ("1f1b", "zb-v", "1f1b-v", "v-half", "v-min")}
    assert held == {"1f1b": 24, "zb-v": 24, "1f1b-v": 17, "v-half": 13, "v-min": 9}


@pytest.mark.parametrize("name", sorted(name for name, family in SCHEDULES.items() if family.needs_times))
def test_only_the_ratios_of_durations_matter(name):
    """In seconds as in any other unit, whatever floating point makes of them."""
    first = SCHEDULES[name].build(4, 12, times=times_of((10, 12, 8)), message_s=2)
    again = SCHEDULES[name].build(4, 12, times=times_of((10 / 7e3, 12 / 7e3, 8 / 7e3)), message_s=2 / 7e3)
    assert first.ops == again.ops


@given(half=st.integers(1, 5), n=st.integers(0, 5), f=st.floats(0.5, 5), share=st.floats(0, 1), gain=st.floats(0, 0.4))
def test_the_dualpipe_formula_is_exact_where_it_is_said_to_be(half, n, f, share, gain):
    """F = Bi and W <= Bi."""
    pp = 2 * half
    pair = (2 + share) * f * (1 - gain)
    times = OpTimes(forward=f, input_gradient=f, weight_gradient=share * f, pair=pair)
    if pair < 2 * f:  # a pair shorter than its input gradients alone is not what the formula is about
        return
    played = replay(dualpipe(pp, 2 * pp + 2 * n), times)
    assert max(played.bubble) == pytest.approx(dualpipe_bubble(pp, times), abs=1e-6)


def test_elsewhere_the_dualpipe_formula_is_off():
    """The documentation's figures: too short when F > Bi or W > Bi, too long when Bi > F."""
    slow_forward = OpTimes(forward=3, input_gradient=2, weight_gradient=2)
    assert max(replay(dualpipe(8, 20), slow_forward).bubble) > dualpipe_bubble(8, slow_forward)
    slow_backward = OpTimes(forward=2, input_gradient=3, weight_gradient=2)
    assert max(replay(dualpipe(8, 20), slow_backward).bubble) < dualpipe_bubble(8, slow_backward)


def test_closed_forms_of_the_published_table():
    assert one_f_one_b_bubble(8, UNIT) == 21
    assert zb1p_bubble(8, UNIT) == 7
    assert dualpipe_bubble(8, UNIT) == 6


@pytest.mark.parametrize(
    ("name", "pp", "n", "chunks", "says"),
    [
        (
            "1f1b",
            4,
            0,
            1,
            "one rank, one micro-batch and one chunk, got n_ranks=4, n_micro_batches=0, chunks=1",
        ),
        ("1f1b", 4, 8, 2, "1f1b has 1 stages per rank, got chunks=2"),
        ("interleaved", 4, 8, 1, "at least 2 stages per rank, got 1: use 2"),
        ("interleaved", 4, 10, 2, "a multiple of 4 micro-batches, got 10: use 8 or 12"),
        ("dualpipe", 3, 12, 1, "even number of pipeline ranks, got 3: use 2 or 4"),
        ("dualpipe", 4, 9, 1, "even number of at least 8 micro-batches, got 9: use 8 or 10"),
        ("dualpipe", 4, 6, 1, "at least 8 micro-batches, got 6: use 8"),
        ("dualpipev", 4, 7, 1, "at least 8 micro-batches, got 7: use 8"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(name, pp, n, chunks, says):
    with pytest.raises(ValueError, match=says):
        SCHEDULES[name].build(pp, n, chunks=chunks)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_durations_must_be_finite(wrong):
    with pytest.raises(ValueError, match="finite durations of at least 0"):
        SCHEDULES["zb-h1"].build(4, 8, times=OpTimes(forward=wrong, input_gradient=1, weight_gradient=1))
