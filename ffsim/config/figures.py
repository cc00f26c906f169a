"""Figures with a unit, a source and a range: how every number that comes from a file is held.

`Quantity` marks a plain float field as "written with a unit"; `Figure` adds where the number comes from and how far it
may be off. Both are plain values: the core never sees the library that builds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar, dataclass_transform, get_args, get_type_hints

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from ffsim import units

T = TypeVar("T")

Kind = Literal["measured", "published", "datasheet", "derived", "assumed", "given"]
Status = Literal["read", "read_secondary", "read_chart", "derived", "measured", "recalled", "assumed"]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def spec(cls: type[T]) -> type[T]:
    """Make a frozen, keyword-only value that a file can describe; keys it does not know are refused."""
    cls.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
    return dataclass(frozen=True, slots=True, kw_only=True)(cls)


@dataclass(frozen=True)
class Quantity:
    """Marks a float field that files write with a unit (``Annotated[float, Quantity(BANDWIDTH)]``).

    Attributes:
        positive: zero is refused.
    """

    unit: units.Unit
    positive: bool = False

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._parse)

    def _parse(self, text: object) -> float:
        value = self.unit.parse(text)
        if self.positive and value == 0:
            raise ValueError(f"{self.unit.dimension} is zero: give more than 0 {self.unit.base}")
        return value

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        spellings = list(self.unit.factors)
        return {
            "type": "string",
            "description": f"{self.unit.dimension}: a number and one of {', '.join(spellings)}",
            "examples": [f"1 {spellings[min(1, len(spellings) - 1)]}"],
        }


@dataclass(frozen=True)
class TaggedBy:
    """Marks a union of dataclasses told apart by one key: ``Annotated[A | B, TaggedBy("kind")]``.

    Each member has that key as a ``Literal`` field of one value.
    """

    key: str

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        members = get_args(source) or (source,)
        choices = {get_args(get_type_hints(member)[self.key])[0]: handler.generate_schema(member) for member in members}
        return core_schema.tagged_union_schema(choices, discriminator=self.key)


Time = Annotated[float, Quantity(units.TIME)]
Bytes = Annotated[float, Quantity(units.BYTES)]
PositiveBytes = Annotated[float, Quantity(units.BYTES, positive=True)]
Bandwidth = Annotated[float, Quantity(units.BANDWIDTH, positive=True)]
FlopRate = Annotated[float, Quantity(units.FLOP_RATE, positive=True)]
IoRate = Annotated[float, Quantity(units.IO_RATE, positive=True)]
Power = Annotated[float, Quantity(units.POWER)]
Money = Annotated[float, Quantity(units.MONEY)]
GpuHourPrice = Annotated[float, Quantity(units.GPU_HOUR_PRICE)]
EnergyPrice = Annotated[float, Quantity(units.ENERGY_PRICE)]
GpuHours = Annotated[float, Quantity(units.GPU_HOURS)]
Tokens = Annotated[float, Quantity(units.TOKENS, positive=True)]
# Plain numbers and what they may be.
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(ge=0.001, le=1)]
Amount = Annotated[float, Field(ge=0, le=1e9)]
Factor = Annotated[float, Field(ge=0.001, le=1000)]
Ratio = Annotated[float, Field(ge=1, le=1000)]  # of the whole to a part, of the busiest to the mean
Exponent = Annotated[float, Field(ge=0, le=10)]
ElementBytes = Annotated[float, Field(ge=0, le=16)]
Count = Annotated[int, Field(ge=1, le=2**31)]
Natural = Annotated[int, Field(ge=0, le=2**31)]
Layers = Annotated[int, Field(ge=1, le=500)]  # the best split of more over pipeline ranks takes minutes to find


@spec
class Source:
    """Where a figure comes from: enough for a stranger to find it again.

    Attributes:
        ref: publication, data sheet, file or reasoning.
        kind: what sort of figure it is; ``assumed`` figures are the ones to doubt first,
            and ``given`` ones come from whoever asks.
        status: how we know it: seen (``read``), quoted by others, read off a chart, computed, from memory.
        date: when it was true, for prices and other things that move.
    """

    ref: str
    kind: Kind
    status: Status = "read"
    date: str = ""

    def __str__(self) -> str:
        seen = "" if self.status in {"read", self.kind} else f", {self.status.replace('_', ' ')}"
        when = f", {self.date}" if self.date else ""
        return f"{self.ref} ({self.kind}{seen}{when})"


@spec
class Figure(Generic[T]):
    """A value in base units, its source, and the range it may lie in.

    Attributes:
        value: the number ffsim computes with.
        source: where it comes from.
        low, high: the ends of its stated range; both or neither.
        note: what a reader should know before believing it.
    """

    value: T
    source: Source
    low: T | None = None
    high: T | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError("give both low and high, or neither")
        if self.source.kind == "assumed" and self.low is None and isinstance(self.value, int | float):
            raise ValueError("an assumed figure needs its range: add low and high")
        if isinstance(self.value, int | float) and self.low is not None and self.high is not None:
            low, high = float(self.low), float(self.high)  # type: ignore[arg-type]
            if not low <= self.value <= high:
                raise ValueError(
                    f"value {self.value:g} lies outside its range {low:g} to {high:g}: change low or high too"
                )

    @property
    def bounds(self) -> tuple[T, T]:
        """The stated range, or the value twice where none is stated."""
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)
