"""Units of the quantities that validation rows ask about."""

from __future__ import annotations

from ffsim.units import BYTES, ENERGY, FLOP, FLOP_RATE, GPU_HOURS, MONEY, TIME, Unit

_PARAMETERS = Unit("parameters", "1", {"": 1.0, "1": 1.0, "million": 1e6, "billion": 1e9}, ("billion",))
_COUNT = Unit("a count or a plain number", "1", {"": 1.0, "1": 1.0}, ("1",))
_UNITS: tuple[tuple[str, Unit], ...] = (
    ("_bytes_per_s", Unit("bandwidth", "bytes/s", {"bytes/s": 1.0, "GB/s": 1e9, "TB/s": 1e12}, ("GB/s",))),
    ("flop_per_s_per_gpu", FLOP_RATE),
    ("flop_per_s_per_gpu_noncausal", FLOP_RATE),
    ("flop_per_token", FLOP),
    ("gpu_hours", GPU_HOURS),
    ("gpu_hours_per_ttoken", GPU_HOURS),
    ("_bytes", BYTES),
    ("_usd", MONEY),
    ("_j", ENERGY),
    ("_s", TIME),
    ("days", Unit("time", "day", {"day": 1.0, "days": 1.0}, ("day",))),
    ("days_per_ttoken", Unit("time", "day", {"day": 1.0, "days": 1.0}, ("day",))),
    ("tokens_per_day", Unit("tokens per day", "token", {"token": 1.0, "Gtoken": 1e9, "Ttoken": 1e12}, ("token",))),
    ("_frac", Unit("a share", "1", {"": 1.0, "1": 1.0, "%": 0.01}, ("%",))),
    ("parameters", _PARAMETERS),
    ("parameters_without_embedding", _PARAMETERS),
    ("kv_elements", Unit("elements", "1", {"": 1.0, "1": 1.0, "thousand": 1e3}, ("thousand",))),
)


def unit_of(quantity: str) -> Unit:
    """The unit of a quantity, told by the longest ending of its name that is known."""
    fitting = [(len(suffix), unit) for suffix, unit in _UNITS if quantity.endswith(suffix)]
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else _COUNT
