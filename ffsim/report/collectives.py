"""Answers about collectives: a table as nccl-tests prints it."""

from __future__ import annotations

from ffsim.report.tables import Presentation, Table
from ffsim.study.collective_result import CollectiveResult
from ffsim.units import BYTES, TIME, significant

BINARY = ("GiB", "MiB", "KiB")


def present_collective(result: CollectiveResult) -> Presentation:
    """The answer to a question about collectives: one row a case."""
    return Presentation(collective_title(result), [collective_table(result)], result.to_dict(), result.rows())


def collective_title(result: CollectiveResult) -> str:
    """What was asked, and the cluster below it."""
    question = result.question
    spec, cluster = question.spec, question.cluster
    placement = spec.placement if isinstance(spec.placement, str) else "listed nodes"
    asides = [placement, f"{question.gpus_per_node} GPUs a node"]
    if spec.groups > 1:
        asides.append(f"{spec.groups} groups at once, each row the slowest")
    if spec.background is not None:
        asides.append("storage traffic behind" if spec.background.file is None else f"{spec.background.file} behind")
    if question.depth == "bounds":
        asides.append("closed forms only: times are lower bounds")
    title = spec.title or "Collectives"
    return f"{title} ({', '.join(asides)})\non {cluster.spec.title} ({cluster.name})"


def collective_table(result: CollectiveResult) -> Table:
    """Time and bandwidth of every case beside its closed-form bounds."""
    rows = [
        (
            one.case.op,
            one.case.algorithm,
            one.case.nodes,
            one.n_ranks,
            size_text(one.case.size_bytes),
            TIME.format(one.time_s),
            significant(one.algbw_bytes_per_s / 1e9),
            significant(one.busbw_bytes_per_s / 1e9),
            one.bottleneck,
            TIME.format(one.lower_s),
            "" if one.upper_s is None else TIME.format(one.upper_s),
        )
        for one in result.measured
    ]
    columns = ("op", "algorithm", "nodes", "ranks", "size", "time", "algbw GB/s", "busbw GB/s", "bottleneck")
    return Table("", (*columns, "at least", "at most"), rows, right=(2, 3, 4, 5, 6, 7, 9, 10))


def size_text(size_bytes: float) -> str:
    """A size in binary units where it is a whole number of them, else in decimal ones.

    >>> size_text(2.0**20), size_text(186 * 2.0**20), size_text(1e9), size_text(0.0)
    ('1 MiB', '186 MiB', '1 GB', '0 B')
    """
    for unit in BINARY:
        if size_bytes and size_bytes % BYTES.factors[unit] == 0:
            return f"{size_bytes / BYTES.factors[unit]:g} {unit}"
    return BYTES.format(size_bytes) if size_bytes else "0 B"
