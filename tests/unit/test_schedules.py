"""Schedules: laws that every one must keep, closed forms, and how far the formulas are off elsewhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffsim.schedules import (
    SCHEDULES,
    OpTimes,
    dualpipe,
    dualpipe_bubble,
    one_f_one_b,
    one_f_one_b_bubble,
    replay,
    zb1p_bubble,
)

UNIT = OpTimes(forward=1, input_gradient=1, weight_gradient=1)


@st.composite
def schedules(draw):
    name = draw(st.sampled_from(sorted(SCHEDULES)))
    pp = draw(st.integers(1, 5)) * 2
    n = 2 * pp + 2 * draw(st.integers(0, 6))
    return SCHEDULES[name].build(pp, n)


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


@given(pp=st.integers(1, 8), n=st.integers(1, 24), f=st.floats(0.1, 5), b=st.floats(0.1, 5))
def test_the_1f1b_formula_is_exact_for_equal_stages(pp, n, f, b):
    times = OpTimes(forward=f, input_gradient=b, weight_gradient=0)
    played = replay(one_f_one_b(pp, n), times)
    assert max(played.bubble) == pytest.approx(one_f_one_b_bubble(pp, times), abs=1e-9)


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
    ("name", "pp", "n", "says"),
    [
        ("1f1b", 4, 0, "at least one rank and one micro-batch, got n_ranks=4, n_micro_batches=0"),
        ("dualpipe", 3, 12, "even number of pipeline ranks, got 3"),
        ("dualpipe", 4, 9, "even number of at least 8 micro-batches, got 9"),
        ("dualpipe", 4, 6, "at least 8 micro-batches, got 6"),
        ("dualpipev", 4, 7, "at least 8 micro-batches, got 7"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(name, pp, n, says):
    with pytest.raises(ValueError, match=says):
        SCHEDULES[name].build(pp, n)
