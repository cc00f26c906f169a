import pytest

from ffsim.config import Figure
from ffsim.errors import ScenarioError
from ffsim.hardware import SHELVES, TYPES, Gpu, Nic, load_part

EVERY_PART = [(kind, name) for kind in TYPES for name in SHELVES[kind].names()]


@pytest.mark.parametrize(("kind", "name"), EVERY_PART)
def test_every_part_loads_and_every_figure_has_a_source(kind, name):
    part = load_part(TYPES[kind], name)
    figures = [value for field in part.__slots__ if isinstance(value := getattr(part, field), Figure)]
    figures += getattr(part, "peak", {}).values()
    assert len(figures) >= 3
    assert all(figure.source.ref for figure in figures)


def test_the_parts_the_shipped_clusters_need_are_there():
    assert {"a100-pcie-40gb", "a100-sxm-40gb", "a100-sxm-80gb", "h800-sxm", "h100-sxm", "h200-sxm"} <= set(
        SHELVES["gpu"].names()
    )
    assert {"cx6-200g", "cx7-400g"} <= set(SHELVES["nic"].names())
    assert {"qm8700", "ndr-64x400g"} <= set(SHELVES["switch"].names())


def test_a_variant_inherits_what_it_does_not_state():
    small, large = load_part(Gpu, "a100-sxm-40gb"), load_part(Gpu, "a100-sxm-80gb")
    assert large.memory.value == 2 * small.memory.value
    assert large.peak == small.peak


def test_an_unknown_part_names_the_closest():
    with pytest.raises(ScenarioError, match="no nic file named 'cx7-400'; did you mean 'cx7-400g'"):
        load_part(Nic, "cx7-400")
