"""What each answer shows on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ffsim.report.tables import Presentation, Table
from ffsim.report.wording import input_value, seconds_scale, span
from ffsim.study.catalogue import Entry
from ffsim.study.result import RunResult
from ffsim.training.memory import KINDS, RankMemory
from ffsim.units import (
    BYTES,
    ENERGY,
    ENERGY_PRICE,
    FLOP_RATE,
    GPU_HOURS,
    MONEY,
    TIME,
    TOKENS,
    Unit,
    percent,
    significant,
)


def present_run(result: RunResult) -> Presentation:
    """The answer to a run: headline, breakdown, memory, bill."""
    return Presentation(scenario_title(result), list(run_tables(result).values()), result.to_dict())


def scenario_title(result: RunResult) -> str:
    """The workload, and the cluster below it."""
    inputs = result.step.prepared.inputs
    return f"{inputs.spec.title}\non {inputs.cluster.spec.title} ({inputs.cluster.name})"


def run_tables(result: RunResult) -> dict[str, Table]:
    """Headline, breakdown (where something was simulated), memory and bill."""
    tables = {"headline": _headline(result)}
    if result.step.breakdown is not None:
        tables["breakdown"] = _breakdown(result)
    return tables | {"memory": _memory(result), "bill": _bill(result)}


def _headline(result: RunResult) -> Table:
    h, bounds, cluster = result.headline, result.step.bounds, result.step.prepared.inputs.cluster
    rental, energy = cluster.spec.rental, cluster.spec.energy_price
    fullest = max(result.step.prepared.memory, key=lambda rank: rank.total)
    simulated = "" if result.doubt is not None else "an estimate by closed forms; "
    when = rental.source.date or ("given" if rental.source.kind == "given" else "undated")
    spare = f"{BYTES.format(h['memory_margin_bytes'], 3)} ({percent(h['memory_margin_frac'], 2)})"
    shown: list[tuple[str, Unit | None, str, str]] = [
        (
            "step time",
            TIME,
            "step_s",
            f"{simulated}closed forms {TIME.format(bounds.lower)} to {TIME.format(bounds.upper)}",
        ),
        ("tokens per day", TOKENS, "tokens_per_day", ""),
        (
            "per GPU",
            FLOP_RATE,
            "flop_per_s_per_gpu",
            f"{FLOP_RATE.format(h['flop_per_s_per_gpu_noncausal'])} counting attention as non-causal",
        ),
        ("MFU", None, "mfu_frac", "of dense BF16; causal attention, recomputation and MTP not counted"),
        (
            "peak memory per GPU",
            BYTES,
            "peak_memory_bytes",
            f"of {BYTES.format(cluster.gpu.memory.value)}, {spare} to spare, pipeline rank {fullest.rank}",
        ),
        ("GPU-hours", GPU_HOURS, "gpu_hours", f"{GPU_HOURS.format(h['gpu_hours_per_ttoken'])} per trillion tokens"),
        ("days", None, "days", f"on {h['gpus']:,.0f} GPUs"),
        ("cost", MONEY, "cost_usd", f"at {rental.value:g} USD/GPU-hour ({when})"),
        (
            "energy",
            ENERGY,
            "energy_j",
            f"{MONEY.format(h['energy_cost_usd'])} at {ENERGY_PRICE.format(energy.value)}",
        ),
    ]
    rows = []
    for name, unit, key, note in shown:
        write = unit.format if unit is not None else percent if key.endswith("_frac") else _days
        ends = result.range.get(key)
        rows.append((name, write(h[key]), span(write(ends["low"]), write(ends["high"])) if ends else "", note))
    return Table("", ("", "value", "range", ""), rows, right=(1,))


def _days(days: float) -> str:
    return significant(days, 3)


def _breakdown(result: RunResult) -> Table:
    step = result.step.step_s
    unit, scale = seconds_scale(step)
    rows = [
        ("  " * depth + name.replace("_", " "), f"{seconds * scale:.3f}", f"{seconds / step:.1%}")
        for depth, name, seconds in breakdown_tree(result.exposed())
    ]
    rows.append(("step", f"{step * scale:.3f}", "100.0%"))
    return Table("where the step goes (mean over pipeline ranks)", ("cause", unit, "share"), rows, right=(1, 2))


def breakdown_tree(exposed: Sequence[dict[str, Any]]) -> list[tuple[int, str, float]]:
    """The exposed breakdown with subtotals, top down: (depth, name, seconds); leaves and subtotals in one list."""
    totals: dict[tuple[str, ...], float] = {}
    for row in exposed:
        path = tuple(row["path"].split("/")[1:])
        for depth in range(1, len(path) + 1):
            totals[path[:depth]] = totals.get(path[:depth], 0.0) + row["seconds"]
    return [(len(path) - 1, path[-1], seconds) for path, seconds in totals.items()]


def _memory(result: RunResult) -> Table:
    capacity = result.step.prepared.inputs.cluster.gpu.memory.value
    rows: list[tuple[str, ...]] = []
    for group in alike(result.step.prepared.memory):
        parts = [f"{group[0].by_kind[kind] / 1e9:.1f}" for kind in KINDS]
        stages = "; ".join(", ".join(map(str, rank.stages)) for rank in (group[0], group[-1])[: len(group)])
        names = f"{group[0].rank}" if len(group) == 1 else f"{group[0].rank} to {group[-1].rank}"
        rows.append((names, stages.replace("; ", " ... "), *parts, f"{group[0].total / 1e9:.1f}"))
    right = tuple(range(2, 3 + len(KINDS)))
    footer = f"of {BYTES.format(capacity)} on each GPU"
    title = "peak memory per GPU by pipeline rank and the stages it holds, GB"
    return Table(title, ("rank", "stages", *KINDS, "total"), rows, right, footer)


def alike(ranks: Sequence[RankMemory]) -> list[list[RankMemory]]:
    """Neighbouring ranks with the same memory, together."""
    groups: list[list[RankMemory]] = []
    for rank in ranks:
        if groups and groups[-1][0].by_kind == rank.by_kind:
            groups[-1].append(rank)
        else:
            groups.append([rank])
    return groups


def _bill(result: RunResult) -> Table:
    price = result.step.prepared.inputs.cluster.spec.rental.value
    rows = [
        (
            line.name,
            GPU_HOURS.format(line.gpu_hours),
            MONEY.format(line.gpu_hours * price),
            "simulated" if line.simulated else "as published",
        )
        for line in result.bill.lines
    ]
    if len(rows) > 1:
        rows.append(
            ("in all", GPU_HOURS.format(result.bill.total_gpu_hours), MONEY.format(result.bill.total_cost_usd), "")
        )
    return Table("bill", ("part", "GPU time", "cost", ""), rows, right=(1, 2))


def present_explanation(result: RunResult) -> Presentation:
    """Why the answer is what it is: what limits the step, and what it rests on."""
    title = f"{scenario_title(result)}\n\nstep time {TIME.format(result.step.step_s)}. {result.explain()}"
    data = {
        "schema": "ffsim.explanation/1",
        "headline": result.headline,
        "limits": [{"resource": name, "saved_frac": share} for name, share in result.limits.items()],
        "parts": result.parts,
        "bubble": result.bubble(),
        "sensitivity": result.sensitivities(),
        "operator_time_basis": result.step.prepared.times.basis_share,
        "sources": result.sources(),
    }
    return Presentation(title, list(explanation_tables(result).values()), data)


def explanation_tables(result: RunResult) -> dict[str, Table]:
    """What limits the step, what its inputs' ranges do to it, how operator times were found, sources of inputs."""
    tables = {}
    if result.limits:
        step_s = result.step.step_s
        rows = [(name, percent(share, 2), TIME.format(share * step_s)) for name, share in result.limits.items()]
        columns = ("resource", "share", "of the step")
        tables["limits"] = Table("what a 10 % faster resource would save", columns, rows, (1, 2))
    if bubble := result.bubble():
        shown = [(row["cause"], TIME.format(row["seconds"])) for row in bubble]
        shown.append(("in all", TIME.format(result.parts["bubble_s"])))
        tables["bubble"] = Table("where the bubble comes from", ("cause", "mean over ranks"), shown, (1,))
    if result.doubt is not None:
        tables["sensitivities"] = _sensitivities(result, "step", "s", TIME)
        tables["memory_sensitivities"] = _sensitivities(result, "peak_memory", "bytes", BYTES)
    basis = [(name, percent(share)) for name, share in result.step.prepared.times.basis_share.items()]
    tables["basis"] = Table("", ("time of a layer's kernels", "share"), basis, (1,))
    sources = [(row["input"], row["source"]) for row in result.sources()]
    return tables | {"sources": Table("sources", ("input", "source"), sources)}


def _sensitivities(result: RunResult, quantity: str, suffix: str, what: Unit) -> Table:
    rows = [
        (
            row["input"],
            input_value(row["input"], row["value"]),
            span(input_value(row["input"], row["low"]), input_value(row["input"], row["high"])),
            what.format(row[f"{quantity}_at_low_{suffix}"]),
            what.format(row[f"{quantity}_at_high_{suffix}"]),
            row["source"],
        )
        for row in result.sensitivities()
        if row[f"{quantity}_at_low_{suffix}"] != row[f"{quantity}_at_high_{suffix}"]
    ]
    name = quantity.replace("_", " ")
    return Table(
        f"what the {name} becomes at the ends of each input's range",
        ("input", "value", "range", "at low", "at high", "source"),
        rows,
        (1, 2, 3, 4),
    )


def present_listing(entries: Sequence[tuple[str, str, str]]) -> Presentation:
    """What the catalogue holds."""
    records = [{"kind": kind, "name": name, "title": title} for kind, name, title in entries]
    table = Table("", ("kind", "name", "title"), [tuple(record.values()) for record in records])
    return Presentation("", [table], {"schema": "ffsim.catalog/1", "entries": records}, records)


def present_entry(entry: Entry) -> Presentation:
    """One entry of the catalogue: every figure with its range and source."""
    records: list[dict[str, Any]] = [
        {
            "path": fact.path,
            "value": fact.value,
            "low": fact.low,
            "high": fact.high,
            "source": fact.source,
            "note": fact.note,
        }
        for fact in entry.facts
    ]
    rows = [
        (record["path"], _shown(record["value"]), _range(record["low"], record["high"]), record["source"])
        for record in records
    ]
    tables = [Table("figures (SI base units)", ("figure", "value", "range", "source"), rows, (1,))]
    if entry.counted:
        counted = [
            (name, _shown(ours), "" if published is None else _shown(published), source)
            for name, ours, published, source in entry.counted
        ]
        tables.append(
            Table(
                "counted by ffsim beside what is published", ("count", "ours", "published", "source"), counted, (1, 2)
            )
        )
    if entry.notes:
        tables.append(Table("notes", ("",), [(note,) for note in entry.notes]))
    data = {
        "schema": "ffsim.catalog/1",
        "kind": entry.kind,
        "name": entry.name,
        "title": entry.title,
        "figures": records,
        "counted": [
            {"count": name, "ours": ours, "published": published, "source": source}
            for name, ours, published, source in entry.counted
        ],
        "notes": list(entry.notes),
    }
    return Presentation(f"{entry.title} ({entry.kind} {entry.name})", tables, data, records)


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    whole = isinstance(value, int) or (value.is_integer() and abs(value) < 1e9)
    return f"{int(value):,}" if whole else significant(value, 6)


def _range(low: Any, high: Any) -> str:
    return "" if low is None else f"{_shown(low)} to {_shown(high)}"
