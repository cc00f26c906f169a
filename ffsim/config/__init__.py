"""Files to frozen values: YAML, units, inheritance, overrides, errors at their place, JSON Schema.

What the values mean is none of this part's business.
"""

from ffsim.config.build import build, json_schema
from ffsim.config.document import Document, Mark, parse_document, read_document
from ffsim.config.figures import (
    Bandwidth,
    Bytes,
    EnergyPrice,
    Figure,
    FlopRate,
    GpuHourPrice,
    GpuHours,
    Money,
    Power,
    Quantity,
    Source,
    TaggedBy,
    Time,
    Tokens,
    spec,
)
from ffsim.config.files import Override, Shelf, load, load_document

__all__ = [
    "Bandwidth",
    "Bytes",
    "Document",
    "EnergyPrice",
    "Figure",
    "FlopRate",
    "GpuHourPrice",
    "GpuHours",
    "Mark",
    "Money",
    "Override",
    "Power",
    "Quantity",
    "Shelf",
    "Source",
    "TaggedBy",
    "Time",
    "Tokens",
    "build",
    "json_schema",
    "load",
    "load_document",
    "parse_document",
    "read_document",
    "spec",
]
