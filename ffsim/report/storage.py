"""What a storage answer shows on a terminal."""

from __future__ import annotations

from ffsim.report.tables import Presentation, Table
from ffsim.report.wording import seconds_scale
from ffsim.study.storage import StorageResult
from ffsim.units import BANDWIDTH, IO_RATE, TIME, Unit, percent, significant


def present_storage(result: StorageResult) -> Presentation:
    """The answer to a storage run: headline, time of a read, resources."""
    return Presentation(
        storage_title(result), list(storage_tables(result).values()), result.to_dict(), result.clients()
    )


def present_storage_explanation(result: StorageResult) -> Presentation:
    """Why the answer is what it is: what binds, and what it rests on."""
    tables = [_resources(result)]
    if result.doubt is not None:
        tables.append(_sensitivities(result))
    tables.append(Table("sources", ("input", "source"), [(row["input"], row["source"]) for row in result.sources()]))
    data = {
        "schema": "ffsim.explanation/1",
        "headline": result.headline,
        "limits": {"bottleneck": result.limits[0], "runner_up": result.limits[1]},
        "resources": result.resources(),
        "sensitivity": result.sensitivities(),
        "sources": result.sources(),
    }
    return Presentation(f"{storage_title(result)}\n\n{result.explain()}", tables, data)


def storage_title(result: StorageResult) -> str:
    """The workload, and the cluster below it."""
    inputs = result.inputs
    return f"{inputs.spec.title}\non {inputs.cluster.spec.title} ({inputs.cluster.name})"


def storage_tables(result: StorageResult) -> dict[str, Table]:
    """Headline, time of a read (where something was simulated), what is beside it, and resources."""
    tables = {"headline": _headline(result)}
    if result.run is not None:
        tables["parts"] = _parts(result)
        if result.run.disturbed is not None:
            tables["disturbed"] = _disturbed(result)
    return tables | {"resources": _resources(result)}


def _headline(result: StorageResult) -> Table:
    h, spec = result.headline, result.inputs.spec
    simulated = "" if result.run is not None else "an upper bound by closed forms; "
    bound = f"{simulated}at most {BANDWIDTH.format(result.upper_bytes_per_s)}, bound by {result.limits[0]}"
    shown: list[tuple[str, Unit, str, str]] = [
        ("read", BANDWIDTH, "read_bytes_per_s", bound),
        ("reads", IO_RATE, "reads_per_s", f"{spec.reads_in_flight} under way per client"),
    ]
    if result.run is not None:
        for of, count in (("client", spec.clients), ("node", result.inputs.storage.nodes)):
            least, most = (BANDWIDTH.format(h[f"{of}_{end}_bytes_per_s"]) for end in ("min", "max"))
            name = "per client" if of == "client" else "per storage node"
            shown.append((name, BANDWIDTH, f"{of}_mean_bytes_per_s", f"mean of {count}; {least} to {most}"))
        tail = f"half within {TIME.format(h['latency_p50_s'])}, 99 % within {TIME.format(h['latency_p99_s'])}"
        shown.append(("latency", TIME, "latency_mean_s", f"mean; {tail}"))
    rows: list[tuple[str, str, str, str]] = []
    for name, unit, key, note in shown:
        ends = result.range.get(key)
        span = f"{unit.format(ends['low'])} to {unit.format(ends['high'])}" if ends else ""
        rows.append((name, unit.format(h[key]), span, note))
    if result.run is not None:
        limit = f"{spec.request_to_send} allowed" if spec.request_to_send else "no request-to-send"
        note = f"mean; {h['senders_most']:.0f} at most, {limit}"
        rows.append(("senders to a client", significant(h["senders_mean"], 3), "", note))
    return Table("", ("", "value", "range", ""), rows, right=(1,))


def _parts(result: StorageResult) -> Table:
    latency = result.headline["latency_mean_s"]
    unit, scale = seconds_scale(latency)
    rows = [(row["part"], f"{row['seconds'] * scale:.1f}", f"{row['frac']:.1%}") for row in result.parts()]
    rows.append(("read", f"{latency * scale:.1f}", "100.0%"))
    footer = "transfers count under what held them back when they ended"
    return Table("where the time of a read goes (mean)", ("part", unit, "share"), rows, (1, 2), footer)


def _disturbed(result: StorageResult) -> Table:
    h, spec = result.headline, result.inputs.spec
    assert spec.background is not None
    rows = [
        (
            "reads",
            BANDWIDTH.format(h["read_bytes_per_s"]),
            BANDWIDTH.format(h["disturbed_read_bytes_per_s"]),
            f"{h['read_bytes_per_s'] / h['disturbed_read_bytes_per_s']:.2f}",
        ),
        (
            "allreduce",
            BANDWIDTH.format(h["allreduce_alone_bytes_per_s"]),
            BANDWIDTH.format(h["allreduce_disturbed_bytes_per_s"]),
            f"{h['allreduce_slowdown']:.2f}",
        ),
    ]
    title = f"beside allreduces over {spec.background.nodes} nodes, virtual lanes {spec.lanes}"
    footer = "allreduce: buffer of a node over time"
    return Table(title, ("", "alone", "together", "times slower"), rows, (1, 2, 3), footer)


def _resources(result: StorageResult) -> Table:
    rows = [
        (
            row["resource"],
            BANDWIDTH.format(row["bound_bytes_per_s"]),
            percent(row["mean_use_frac"]) if "mean_use_frac" in row else "",
            percent(row["busiest_use_frac"]) if "busiest_use_frac" in row else "",
        )
        for row in result.resources()
    ]
    footer = "bound: what all clients could read if nothing else held them back"
    return Table("resources", ("resource", "bound", "mean use", "busiest"), rows, (1, 2, 3), footer)


def _sensitivities(result: StorageResult) -> Table:
    rows = [
        (
            row["input"],
            _input(row["input"], row["value"]),
            f"{_input(row['input'], row['low'])} to {_input(row['input'], row['high'])}",
            BANDWIDTH.format(row["read_at_low_bytes_per_s"]),
            BANDWIDTH.format(row["read_at_high_bytes_per_s"]),
            row["source"],
        )
        for row in result.sensitivities()
    ]
    columns = ("input", "value", "range", "at low", "at high", "source")
    return Table("what reads become at the ends of each input's range", columns, rows, (1, 2, 3, 4))


def _input(name: str, value: float) -> str:
    """A value of an uncertain input with its unit, told by its name."""
    endings = {"latency": TIME, "ssd.read": BANDWIDTH, "io_rate": IO_RATE}
    unit = next((unit for ending, unit in endings.items() if name.endswith(ending)), None)
    return significant(value, 3) if unit is None else unit.format(value, 3)
