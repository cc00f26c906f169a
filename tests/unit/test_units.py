import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffsim import units
from ffsim.units import BANDWIDTH, BYTES, TIME, TOKENS, Unit, percent, significant


def test_bits_become_bytes():
    assert BANDWIDTH.parse("200 Gbit/s") == 25e9
    assert BANDWIDTH.parse("  9GiB/s ") == 9 * 2**30


def test_underscores_and_exponents_are_numbers():
    assert TOKENS.parse("14_800 Gtoken") == 14.8e12
    assert TOKENS.parse("1.48e13 token") == 14.8e12


@pytest.mark.parametrize(
    "text", ["200 Gb/s", "200", "", "fast", "GB/s", "-3 GB/s", "1e999 GB/s", "nan GB/s", "1 2 GB/s"]
)
def test_what_is_not_a_bandwidth_is_refused_with_the_spellings(text):
    with pytest.raises(ValueError, match="bandwidth") as error:
        BANDWIDTH.parse(text)
    assert "GB/s" in str(error.value)


@pytest.mark.parametrize("value", [200, 2.5, None, True, ["200 GB/s"]])
def test_a_bare_value_is_told_to_add_a_unit(value):
    with pytest.raises(ValueError, match="has no unit: add one of"):
        BANDWIDTH.parse(value)


def test_output_picks_the_largest_unit_that_keeps_one():
    assert BYTES.format(80e9) == "80 GB"
    assert BYTES.format(999.96) == "1.000 kB"
    assert TIME.format(0.00125) == "1.25 ms"
    assert TIME.format(0) == "0 s"


def test_significant_digits():
    assert significant(2_664_123.4) == "2,664,000"
    assert significant(0.99999) == "1.000"
    assert significant(1.5e-7) == "1.500e-07"
    assert percent(0.5) == "50 %"


@given(st.floats(1e-3, 1e18, allow_nan=False))
def test_every_printed_number_is_within_its_digits(value):
    number, unit = BYTES.format(value, digits=6).replace(",", "").split()
    assert math.isclose(float(number) * BYTES.factors[unit], value, rel_tol=1e-5)


def test_printed_units_are_spellings_of_their_own_unit():
    every = [value for value in vars(units).values() if isinstance(value, Unit)]
    assert len(every) > 10
    assert all(set(unit.printed) <= set(unit.factors) for unit in every)
