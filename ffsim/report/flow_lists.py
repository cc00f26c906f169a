"""Answers about a user's own flows: when each ran, how fast, what held it back."""

from __future__ import annotations

from ffsim.report.collectives import size_text
from ffsim.report.tables import Presentation, Table
from ffsim.study.flows import FlowsResult
from ffsim.units import BANDWIDTH, BYTES, TIME, percent


def present_flows(result: FlowsResult) -> Presentation:
    """The answer to a list of flows: makespan, every flow, heaviest links."""
    return Presentation(flows_title(result), list(flow_tables(result).values()), result.to_dict(), result.rows())


def flows_title(result: FlowsResult) -> str:
    """What was asked, and the cluster below it."""
    cluster = result.cluster
    alone = " (closed forms: each flow as if alone)" if result.scenario.depth == "bounds" else ""
    return f"{result.spec.title or result.listed.name}{alone}\non {cluster.spec.title} ({cluster.name})"


def flow_tables(result: FlowsResult) -> dict[str, Table]:
    """Makespan with its bounds, flows, heaviest links."""
    low, high = result.bounds
    span = f"closed forms {TIME.format(low)} to {TIME.format(high)}"
    headline = [
        ("makespan", TIME.format(result.makespan_s), span),
        ("bytes", BYTES.format(result.headline["total_bytes"]), f"in {len(result.listed):,} flows"),
        ("bottleneck", result.bottleneck, "of the chain of flows that ends last"),
    ]
    flows = [
        (
            row["id"],
            row["src"],
            row["dst"],
            size_text(row["bytes"]),
            TIME.format(row["start_s"]),
            TIME.format(row["end_s"]),
            BANDWIDTH.format(row["rate_bytes_per_s"]),
            row["bottleneck"],
        )
        for row in result.rows()
    ]
    links = [(row["link"], BYTES.format(row["bytes"]), percent(row["use_frac"])) for row in result.heaviest_links()]
    columns = ("id", "from", "to", "size", "start", "end", "mean rate", "held back at the end by")
    return {
        "headline": Table("", ("", "value", ""), headline, right=(1,)),
        "flows": Table("flows", columns, flows, right=(3, 4, 5, 6)),
        "links": Table("heaviest links", ("link", "carries", "mean use"), links, right=(1, 2)),
    }
