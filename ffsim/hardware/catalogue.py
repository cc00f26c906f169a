"""Where part files stand and how they become values."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from ffsim.config import Shelf, load
from ffsim.hardware.specs import Cpu, Gpu, Nic, Ssd, Switch

Part = Gpu | Cpu | Nic | Switch | Ssd
P = TypeVar("P", Gpu, Cpu, Nic, Switch, Ssd)

TYPES: dict[str, type[Part]] = {"gpu": Gpu, "cpu": Cpu, "nic": Nic, "switch": Switch, "ssd": Ssd}
SHELVES = {kind: Shelf(kind, f"hardware/{kind}", Path(__file__).parent / "data" / kind) for kind in TYPES}


def load_part(type_: type[P], name: str, *, near: Path | None = None) -> P:
    """Load a part by name or path.

    Raises:
        ScenarioError: no such part, or its file is wrong.

    >>> load_part(Nic, "cx7-400g").bandwidth.value
    50000000000.0
    """
    kind = next(kind for kind, known in TYPES.items() if known is type_)
    return load(SHELVES[kind], name, type_, near=near)
