"""Quantities with units at the border, SI base units inside.

A figure enters ffsim as text with a unit (``"200 Gbit/s"``) and is a plain float in base units from then on; it leaves
as text again. Nothing between those two borders knows about prefixes, bits or binary multiples.

>>> BANDWIDTH.parse("200 Gbit/s")
25000000000.0
>>> TIME.format(19.926)
'19.93 s'
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

SMALLEST, LARGEST = 1e-30, 1e30  # in base units: products of a few quantities stay far from overflow

_QUANTITY = re.compile(r"\s*(?P<number>\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*(?P<unit>[^\s\d].*?)\s*")


@dataclass(frozen=True)
class Unit:
    """One physical dimension: its SI base and the spellings we accept.

    Attributes:
        dimension: what is measured, as it reads in a message (``"bandwidth"``).
        base: the unit used inside ffsim (``"bytes/s"``).
        factors: accepted spelling -> multiples of the base. Order is the order in which messages list them.
        printed: spellings used for output, smallest first; the largest that keeps the number >= 1 is chosen.
    """

    dimension: str
    base: str
    factors: dict[str, float] = field(hash=False)
    printed: tuple[str, ...]

    def parse(self, text: object) -> float:
        """Read ``"200 Gbit/s"`` and return base units (here 25e9 bytes/s).

        Raises:
            ValueError: no unit, unknown unit (the message names the accepted ones), beyond `SMALLEST` and `LARGEST`.
        """
        known = ", ".join(self.factors)
        if not isinstance(text, str):
            raise ValueError(f"{text!r} has no unit: add one of {known}")
        match = _QUANTITY.fullmatch(text)
        if match is None or match["unit"] not in self.factors:
            raise ValueError(f"cannot read {text!r} as {self.dimension}: use one of {known}")
        value = float(match["number"].replace("_", "")) * self.factors[match["unit"]]
        if value and not SMALLEST <= value <= LARGEST:
            raise ValueError(f"{text!r} is beyond any {self.dimension} that makes sense: check the exponent")
        return value

    def format(self, value: float, digits: int = 4) -> str:
        """Write base units for people: the largest printed unit that keeps the number at or above one.

        >>> BYTES.format(80e9), BYTES.format(0.0), TIME.format(3e-7)
        ('80 GB', '0 B', '300 ns')
        """
        if value == 0 and self.base in self.printed:
            return f"0 {self.base}"
        unit = self.printed[0]
        for candidate in self.printed:
            if abs(value) >= self.factors[candidate] * (1 - 0.5 * 10.0**-digits):
                unit = candidate
        return f"{significant(value / self.factors[unit], digits)} {unit}"


def significant(value: float, digits: int = 4) -> str:
    """Write a number with so many significant digits, thousands grouped, without exponents between 1e-4 and 1e15.

    Zeros at the end are kept where they say something about the value, and dropped where it is exact.

    >>> significant(2664123.4), significant(0.38941), significant(19.9), significant(19.9004), significant(0.0)
    ('2,664,000', '0.3894', '19.9', '19.90', '0')
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    magnitude = math.floor(math.log10(abs(value)))
    if not -4 <= magnitude < 15:
        return f"{value:.{digits - 1}e}"
    rounded = round(value, digits - 1 - magnitude)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    text = f"{rounded:,.{decimals}f}"
    exact = math.isclose(rounded, value, rel_tol=1e-9)
    return text.rstrip("0").rstrip(".") if exact and "." in text else text


def percent(fraction: float, digits: int = 3) -> str:
    """Write a fraction as a percentage.

    >>> percent(0.38941)
    '38.9 %'
    """
    return f"{significant(fraction * 100, digits)} %"


TIME = Unit(
    "time",
    "s",
    {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0, "day": 86400.0, "year": 365.25 * 86400.0},
    ("ns", "us", "ms", "s"),
)
BYTES = Unit(
    "size",
    "bytes",
    {
        "B": 1.0,
        "kB": 1e3,
        "MB": 1e6,
        "GB": 1e9,
        "TB": 1e12,
        "PB": 1e15,
        "KiB": 2.0**10,
        "MiB": 2.0**20,
        "GiB": 2.0**30,
        "TiB": 2.0**40,
        "PiB": 2.0**50,
    },
    ("B", "kB", "MB", "GB", "TB", "PB"),
)
BANDWIDTH = Unit(
    "bandwidth",
    "bytes/s",
    {
        "Mbit/s": 1e6 / 8,
        "Gbit/s": 1e9 / 8,
        "Tbit/s": 1e12 / 8,
        "MB/s": 1e6,
        "GB/s": 1e9,
        "TB/s": 1e12,
        "MiB/s": 2.0**20,
        "GiB/s": 2.0**30,
        "TiB/s": 2.0**40,
    },
    ("MB/s", "GB/s", "TB/s"),
)
FLOP = Unit(
    "work",
    "FLOP",
    {"FLOP": 1.0, "MFLOP": 1e6, "GFLOP": 1e9, "TFLOP": 1e12, "PFLOP": 1e15, "EFLOP": 1e18, "ZFLOP": 1e21},
    ("FLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP"),
)
FLOP_RATE = Unit(
    "compute rate",
    "FLOP/s",
    {"GFLOP/s": 1e9, "TFLOP/s": 1e12, "PFLOP/s": 1e15, "EFLOP/s": 1e18},
    ("GFLOP/s", "TFLOP/s", "PFLOP/s", "EFLOP/s"),
)
POWER = Unit("power", "W", {"W": 1.0, "kW": 1e3, "MW": 1e6}, ("W", "kW", "MW"))
ENERGY = Unit("energy", "J", {"J": 1.0, "kWh": 3.6e6, "MWh": 3.6e9, "GWh": 3.6e12}, ("kWh", "MWh", "GWh"))
MONEY = Unit(
    "money",
    "USD",
    {"USD": 1.0, "kUSD": 1e3, "MUSD": 1e6, "thousand USD": 1e3, "million USD": 1e6, "billion USD": 1e9},
    ("USD", "thousand USD", "million USD", "billion USD"),
)
GPU_HOUR_PRICE = Unit("price per GPU-hour", "USD/GPU-hour", {"USD/GPU-hour": 1.0}, ("USD/GPU-hour",))
ENERGY_PRICE = Unit("price of energy", "USD/J", {"USD/kWh": 1 / 3.6e6, "USD/MWh": 1 / 3.6e9}, ("USD/kWh",))
TOKENS = Unit(
    "tokens",
    "token",
    {"token": 1.0, "ktoken": 1e3, "Mtoken": 1e6, "Gtoken": 1e9, "Ttoken": 1e12},
    ("token", "ktoken", "Mtoken", "Gtoken", "Ttoken"),
)
IO_RATE = Unit(
    "request rate",
    "IO/s",
    {"IO/s": 1.0, "kIO/s": 1e3, "MIO/s": 1e6, "GIO/s": 1e9},
    ("IO/s", "kIO/s", "MIO/s", "GIO/s"),
)
GPU_HOURS = Unit(
    "GPU time",
    "GPU-hour",
    {
        "GPU-hour": 1.0,
        "kGPU-hour": 1e3,
        "MGPU-hour": 1e6,
        "GPU-hours": 1.0,
        "thousand GPU-hours": 1e3,
        "million GPU-hours": 1e6,
    },
    ("GPU-hours", "thousand GPU-hours", "million GPU-hours"),
)
