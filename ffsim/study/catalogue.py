"""What ships with ffsim: every kind of entry, its figures with sources, and the schema of its files."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from ffsim.config import Figure, Shelf, Source, json_schema, load_document
from ffsim.errors import Problem, ScenarioError
from ffsim.hardware import SHELVES as HARDWARE
from ffsim.hardware import TYPES, load_part
from ffsim.model.parameters import count_parameters
from ffsim.model.spec import SHELF as MODELS
from ffsim.model.spec import AnyModel, ModelSpec, load_any_model
from ffsim.schedules import SCHEDULES
from ffsim.storage import ReadSpec
from ffsim.study.collective_spec import CollectiveSpec
from ffsim.study.flows import FlowsSpec
from ffsim.study.kinds import kind_of
from ffsim.study.validation import RowFile
from ffsim.topology import SHELF as CLUSTERS
from ffsim.topology import ClusterSpec, build_topology, load_cluster
from ffsim.training import SHELF as WORKLOADS
from ffsim.training import PretrainSpec, workload_document

SHELVES: dict[str, Shelf] = {"cluster": CLUSTERS, "workload": WORKLOADS, "model": MODELS, **HARDWARE}


@dataclass(frozen=True, slots=True)
class Fact:
    """One figure of an entry: where it stands, its value in base units, its range and source."""

    path: str
    value: Any
    low: Any = None
    high: Any = None
    source: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the catalogue.

    Attributes:
        facts: what its file says.
        counted: what ffsim counts beside what is published, where there is something to count.
        notes: what is assumed or does not add up.
    """

    kind: str
    name: str
    title: str
    facts: tuple[Fact, ...]
    counted: tuple[tuple[str, float, float | None, str], ...] = ()
    notes: tuple[str, ...] = ()


def listing(kind: str | None = None) -> list[tuple[str, str, str]]:
    """Kind, name and title of every entry, or of those of one kind."""
    entries = [
        (each, name, _title(each, name))
        for each, shelf in SHELVES.items()
        if kind in {None, each}
        for name in shelf.names()
    ]
    if kind in {None, "schedule"}:
        entries += [("schedule", name, family.title) for name, family in SCHEDULES.items()]
    return entries


def _title(kind: str, name: str) -> str:
    """The title line of a file, read without building the value."""
    for line in SHELVES[kind].find(name).read_text(encoding="utf-8").splitlines():
        if line.startswith("title:"):
            return line.removeprefix("title:").strip().strip('"')
    return ""


def describe(kind: str, name: str) -> Entry:
    """One entry with all its figures.

    Raises:
        ScenarioError: no such entry.
    """
    if kind == "cluster":
        return _describe_cluster(name)
    if kind == "workload":
        pretrain = kind_of(name) == "pretrain"  # which rests on shipped assumptions
        document = workload_document(name) if pretrain else load_document(WORKLOADS, name)
        facts = tuple(Fact(path, value) for path, value in _leaves(document.data, ""))
        return Entry(kind, name, str(document.data.get("title", "")), facts)
    if kind == "model":
        return _describe_model(name)
    part = load_part(TYPES[kind], name)  # type: ignore[type-var]
    return Entry(kind, name, part.title, tuple(_facts(part, "")))


def _describe_cluster(name: str) -> Entry:
    cluster = load_cluster(name)
    counts = build_topology(cluster).counts()
    published = {row.quantity: row for row in cluster.spec.published}
    counted = tuple(
        (
            field.name,
            float(getattr(counts, field.name)),
            float(published[field.name].value) if field.name in published else None,
            str(published[field.name].source) if field.name in published else "",
        )
        for field in fields(counts)
    )
    facts = tuple(fact for fact in _facts(cluster.spec, "") if not fact.path.startswith(("published", "notes")))
    return Entry("cluster", name, cluster.spec.title, facts, counted, cluster.spec.notes)


def _describe_model(name: str) -> Entry:
    model = load_any_model(name)
    counted: tuple[tuple[str, float, float | None, str], ...] = ()
    notes: tuple[str, ...] = ()
    if isinstance(model, ModelSpec):
        counts, stated = count_parameters(model), model.published or {}
        total, activated = stated.get("total"), stated.get("activated")
        counted = (
            (
                "total parameters",
                float(counts.total),
                total.value if total else None,
                str(total.source) if total else "",
            ),
            (
                "activated parameters, without input embedding",
                float(counts.activated_without_embedding),
                activated.value if activated else None,
                str(activated.source) if activated else "",
            ),
        )
        notes = (model.notes,) if model.notes else ()
    facts = tuple(fact for fact in _facts(model, "") if not fact.path.startswith(("published", "notes")))
    return Entry("model", name, model.title, facts, counted, notes)


def _facts(value: Any, path: str) -> Iterator[Fact]:
    """Every leaf of a value; figures bring their sources."""
    if isinstance(value, Figure):
        yield Fact(path, value.value, value.low, value.high, str(value.source), value.note)
    elif isinstance(value, Source):
        yield Fact(path, str(value))
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            if field.name not in {"kind", "title"} or path:
                yield from _facts(getattr(value, field.name), f"{path}.{field.name}" if path else field.name)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _facts(item, f"{path}.{key}")
    elif isinstance(value, tuple) and all(is_dataclass(item) for item in value):
        for number, item in enumerate(value):
            yield from _facts(item, f"{path}.{number}")
    elif value is not None:
        yield Fact(path, value)


def _leaves(data: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    elif isinstance(data, list) and any(isinstance(item, dict) for item in data):
        for index, item in enumerate(data):
            yield from _leaves(item, f"{path}.{index}")
    else:
        yield path, data


def schema_of(kind: str) -> dict[str, Any]:
    """JSON Schema of a kind of file.

    Raises:
        ScenarioError: no such kind.
    """
    forms: dict[str, Any] = {
        "cluster": ClusterSpec,
        "workload": PretrainSpec,
        "collective": CollectiveSpec,
        "flows": FlowsSpec,
        "storage": ReadSpec,
        "validation": RowFile,
        "model": AnyModel,
        **TYPES,
    }
    if kind not in forms:
        raise ScenarioError(Problem(what=f"no kind of file named {kind!r}", fix=f"use one of {', '.join(forms)}"))
    schema = deepcopy(json_schema(forms[kind]))
    if kind == "workload":  # the shipped assumptions stand in for whatever a file leaves out
        schema["required"].remove("assumptions")
        schema["$defs"]["Assumptions"]["required"] = []
    if kind == "storage":
        schema["required"].remove("file_system")
        schema["$defs"]["FileSystem"]["required"] = []
    if kind == "validation":
        schema = {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/Row"}}, schema], "$defs": schema.pop("$defs")}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"ffsim {kind} file"
    if kind not in {"validation", "model"}:
        schema["properties"]["base"] = {"type": "string", "description": "file to inherit from, by name or path"}
    return schema
