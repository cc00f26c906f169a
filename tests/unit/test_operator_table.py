"""Every operator opened up: its times are those of the step, its roofline is that of the data sheet."""

from dataclasses import replace

import numpy as np
import pytest

from ffsim.compute import BASES, Conditions
from ffsim.compute.roofline import peaks, roofline_s
from ffsim.hardware import Gpu
from ffsim.hardware.catalogue import load_part
from ffsim.model.operators import Operators, Row
from ffsim.report.operators import operator_tables, present_operators
from ffsim.schedules import SCHEDULES
from ffsim.training.costs import CONDITIONS, PHASES, PIECES, entry
from ffsim.training.operator_table import operator_table, passes_per_step, usual_condition

EVERY_SM, FEWER_SMS = Conditions(), Conditions(sms_for_communication=20)


@pytest.fixture(scope="module")
def h800():
    return load_part(Gpu, "h800-sxm")


def test_the_roofline_of_a_product_by_hand(h800):
    """2 x 4096^3 = 137.4 GFLOP over 3 x 4096^2 x 2 = 100.7 MB at 989.4 TFLOP/s, or at 112/132 of it."""
    side = 4096
    product = Row(name="a", phase="F", segment=0, family="gemm", m=side, n=side, k=side, flop=2.0 * side**3)
    table = Operators.of([product])
    table.read_bytes[:], table.write_bytes[:] = 4.0 * side**2, 2.0 * side**2
    seconds = 2 * side**3 / 989.4e12
    assert roofline_s(table, h800, EVERY_SM) == pytest.approx([seconds], rel=1e-3)
    assert roofline_s(table, h800, FEWER_SMS) == pytest.approx([seconds * 132 / 112], rel=1e-3)
    assert peaks(table, h800, FEWER_SMS) == pytest.approx({"bf16": 989.4e12 * 112 / 132}, rel=1e-3)


def test_kernels_that_move_bytes_keep_the_bandwidth_when_sms_are_taken(h800):
    """3.35 GB at 3.35 TB/s are 1 ms; a copy to the host takes the host link."""
    row = Row(name="a", phase="F", segment=0, family="elementwise", read_bytes=3.35e9)
    copy = Row(name="b", phase="F", segment=0, family="host_copy", write_bytes=h800.host_link.value)
    assert roofline_s(Operators.of([row, copy]), h800, FEWER_SMS) == pytest.approx([1e-3, 1.0])


@pytest.mark.parametrize("condition", CONDITIONS)
def test_operators_sum_to_the_times_of_the_step(tiny, tiny_1f1b, condition):
    for result in (tiny, tiny_1f1b):
        table, times = operator_table(result.step.prepared, condition), result.step.prepared.times
        summed = {(row["piece"], row["phase"]): row["seconds"] for row in table.totals()}
        assert {piece for piece, _ in summed} == set(result.step.prepared.pieces.lowered)
        for (piece, phase), seconds in summed.items():
            entries = [entry(piece, phase, segment, condition) for segment in range(3)]
            assert seconds == pytest.approx(times.total(entries), rel=1e-12)
            rows = [row for row in table.rows() if (row["piece"], row["phase"]) == (piece, phase)]
            assert sum(row["seconds"] for row in rows) == pytest.approx(seconds, rel=1e-12)


def test_rows_say_shape_work_and_basis(tiny):
    """The expert layer's up projection: 2 experts, 2182 rows each, 2 x 512 outputs, 1024 inputs."""
    rows = tiny.operators()
    assert {row["basis"] for row in rows} <= set(BASES)
    up = next(row for row in rows if row["name"] == "feed_forward/experts/grouped_linear")
    assert (up["piece"], up["phase"], up["family"], up["dtype"]) == ("moe", "F", "grouped_gemm", "fp8_block")
    assert (up["groups"], up["n"], up["k"]) == (2, 1024, 1024)
    assert up["flop"] == pytest.approx(2 * 2 * up["m"] * 1024 * 1024, rel=1e-3)
    assert up["intensity_flop_per_byte"] == up["flop"] / up["bytes"]
    assert up["roofline_frac"] == up["roofline_s"] / up["seconds"]
    norm = next(row for row in rows if row["family"] == "elementwise")
    assert (norm["dtype"], norm["m"], norm["intensity_flop_per_byte"]) == (None, None, 0.0)


def test_row_mapping_is_a_row_without_a_roofline(tiny, tiny_1f1b):
    mapping = [row for row in tiny.operators() if row["name"].endswith("map rows")]
    assert [(row["piece"], row["phase"], row["roofline_frac"]) for row in mapping] == [
        ("moe", "F", None),
        ("mtp", "F", None),
    ]
    rows = 1024 * tiny.step.prepared.inputs.model.moe.top_k
    inputs = tiny.step.prepared.inputs
    factor = inputs.spec.assumptions.operator_time.value
    assert mapping[0]["seconds"] == pytest.approx(inputs.kernels.row_mapping.value * rows * factor)
    assert not any(row["name"].endswith("map rows") for row in tiny_1f1b.operators())


def test_nothing_is_faster_than_its_roofline(tiny, tiny_1f1b):
    for result in (tiny, tiny_1f1b):
        assert max(row["roofline_frac"] or 0.0 for row in result.operators()) < 1


def test_an_operator_above_its_roofline_is_said_not_hidden(tiny, monkeypatch):
    table = tiny.operator_table()
    raised = replace(table, roofline=np.full(len(table.seconds), 1e3))
    monkeypatch.setattr(type(tiny), "operator_table", lambda *_: raised)
    shown = present_operators(tiny, ["head"])
    assert min(row["roofline_frac"] for row in shown.records) > 1
    assert "above the roofline" in shown.tables[1].footer


def test_passes_are_those_of_all_micro_batches_through_all_layers(tiny):
    prepared = tiny.step.prepared
    model, n = prepared.inputs.model, prepared.layout.n_micro_batches
    passes = passes_per_step(prepared.stages, prepared.layout)
    assert passes["dense"] + passes["moe"] == model.layers * n
    assert passes["embedding"] == n
    assert passes["head"] == n * (1 + model.mtp_layers)


def test_the_condition_is_that_of_most_passes(tiny, tiny_1f1b):
    """DualPipe of 16 ranks overlaps most of 120 micro-batches, and few of the 8 of a tiny one."""
    layout = tiny.step.prepared.layout
    assert usual_condition(tiny_1f1b.step.prepared.layout) == "alone"
    assert usual_condition(layout) == "alone"
    assert usual_condition(replace(layout, schedule=SCHEDULES["dualpipe"].build(16, 120))) == "beside"
    assert (tiny.operator_table("beside").sms, tiny_1f1b.operator_table("beside").sms) == (112, 132)


def test_tables_go_by_piece_and_phase(tiny):
    table = tiny.operator_table()
    keys = list(zip(table.piece.tolist(), [PHASES.index(phase) for phase in table.operators.phase], strict=True))
    assert keys == sorted(keys)
    assert [PIECES[piece] for piece in dict.fromkeys(table.piece.tolist())] == list(table.passes)
    longest = operator_tables(tiny)["longest_operators"]
    assert len(longest.rows) == 12
    assert "an expert layer" in longest.title
