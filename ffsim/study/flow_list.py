"""A user's own flows from a CSV file: ends by readable names, order by ids, every problem with its line."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from ffsim.engine import Csr, Flows
from ffsim.errors import Problem, ScenarioError
from ffsim.topology import TRAFFIC_CLASSES, RoutingRule, Topology
from ffsim.units import BANDWIDTH, BYTES, TIME, Unit

Ints = np.ndarray[Any, Any]

# Spellings of each column: with the unit in the cells, with the unit in the header.
COLUMNS = {
    "start": ("start", "start_s"),
    "src": ("src", ""),
    "dst": ("dst", ""),
    "bytes": ("size", "bytes"),
    "depends_on": ("depends_on", ""),
    "id": ("id", ""),
    "lane": ("lane", ""),
    "cap": ("cap", "cap_bytes_per_s"),
}
NEEDED = ("src", "dst", "bytes")
UNITS: dict[str, Unit] = {"start": TIME, "bytes": BYTES, "cap": BANDWIDTH}
KNOWN = tuple(name for pair in COLUMNS.values() for name in pair if name)
_END = re.compile(
    r"(?:(?P<storage>storage(?: node)?) (?P<of>\d+)(?: nic (?P<port>\d+))?"
    r"|gpu (?P<gpu>\d+)"
    r"|node (?P<node>\d+)(?: (?:gpu (?P<local>\d+)|host))?)"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FlowList:
    """Flows as a file lists them.

    Attributes:
        name: of the file.
        ids: ``[n_flows]``; the number of the row where the file gives none.
        src, dst: ``[n_flows]`` names of the ends, as written.
        flows: with their ways, for the engine.
    """

    name: str
    ids: tuple[str, ...]
    src: tuple[str, ...]
    dst: tuple[str, ...]
    flows: Flows

    def __len__(self) -> int:
        return len(self.ids)


def read_flow_list(path: Path, topology: Topology, rule: RoutingRule | None = None, *, default_lane: int) -> FlowList:
    """Read a file of flows and find their ways.

    Args:
        path: CSV with the columns ``src``, ``dst``, ``bytes`` (or ``size`` with units), and where wanted ``start_s``
            (or ``start``), ``depends_on`` (ids, separated by spaces), ``id``, ``lane`` (a class of traffic), ``cap``.
        topology: what the ends are names of.
        rule: how flows find their way; the cluster's if left out.
        default_lane: of flows that name none.

    Raises:
        ScenarioError: the file cannot be read, or everything that is wrong in it.
        InfeasiblePlan: nothing but broken links leads to an end.
    """
    lines = _lines(path)
    reader = _Reader(str(path), topology, lines)
    rows = [reader.row(number, cells) for number, cells in lines]
    ids = reader.ids
    edges = reader.edges()
    if reader.problems:
        raise ScenarioError(sorted(reader.problems, key=_line_of))
    src, dst, size, start, cap, lane = (np.array(column) for column in zip(*rows, strict=True))
    try:
        routes = topology.routes(src.astype(np.int64), dst.astype(np.int64), rule)
    except ValueError as error:
        raise ScenarioError(Problem(where=str(path), what=str(error))) from None
    first, links, weight = routes.lists()
    return FlowList(
        name=path.name,
        ids=tuple(ids),
        src=tuple(cells["src"].strip() for _, cells in lines),
        dst=tuple(cells["dst"].strip() for _, cells in lines),
        flows=Flows(
            links=Csr(first, links.astype(np.int64)),
            size_bytes=size,
            weight=weight,
            latency_s=routes.latency_s,
            start_s=start,
            edges=edges,
            cap_bytes_per_s=cap,
            lane=np.where(lane < 0, default_lane, lane).astype(np.int64),
        ),
    )


def _lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line number and cells of every row, under the names that `COLUMNS` has first.

    Raises:
        ScenarioError: the file cannot be read or its header is wrong.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            _check_header(str(path), header)
            reader.fieldnames = header
            lines = [(reader.line_num, cells) for cells in reader]
    except FileNotFoundError:
        raise ScenarioError(Problem(where=str(path), what="no such file", fix="check the path")) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ScenarioError(Problem(where=str(path), what=f"cannot be read: {error}", fix="give a CSV file")) from None
    if not lines:
        raise ScenarioError(Problem(where=str(path), what="holds no flows", fix="add a row for each flow"))
    return lines


def _check_header(where: str, header: Sequence[str]) -> None:
    problems = []
    for name in dict.fromkeys(header):
        if name not in KNOWN:
            near = get_close_matches(name, KNOWN, n=1)
            fix = f"did you mean {near[0]!r}?" if near else f"known columns: {', '.join(KNOWN)}"
            problems.append(Problem(where=f"{where}:1", what=f"unknown column {name!r}", fix=fix))
        elif header.count(name) > 1:
            problems.append(Problem(where=f"{where}:1", what=f"column {name!r} occurs twice", fix="keep one"))
    for name, spellings in COLUMNS.items():
        given = [spelling for spelling in spellings if spelling in header]
        if len(given) == 2:
            problems.append(Problem(where=f"{where}:1", what=f"columns {' and '.join(given)}", fix="keep one of them"))
        if not given and name in NEEDED:
            problems.append(Problem(where=f"{where}:1", what=f"no column {name!r}", fix="add it"))
    if problems:
        raise ScenarioError(problems)


def _line_of(problem: Problem) -> int:
    return int(problem.where.rsplit(":", 1)[1])


class _Reader:
    """Reads rows one by one and collects everything that is wrong with them."""

    def __init__(self, where: str, topology: Topology, lines: Sequence[tuple[int, Mapping[str, str]]]) -> None:
        self._where = where
        self._topology = topology
        self._lines = lines
        self.problems: list[Problem] = []
        self.ids = self._read_ids()

    def fail(self, line: int, column: str, what: str, fix: str = "") -> None:
        """Note a problem."""
        self.problems.append(Problem(where=f"{self._where}:{line}", path=column, what=what, fix=fix))

    def row(self, line: int, cells: Mapping[str, Any]) -> tuple[float, ...]:
        """Source, destination, size, start, cap and lane of one flow; what cannot be read is 0."""
        if None in cells or None in cells.values():
            self.fail(line, "", "does not have as many cells as the header", "mend the commas")
            return (0,) * 6
        src, dst = (self._end(line, name, cells[name]) for name in ("src", "dst"))
        if src == dst and src >= 0:
            self.fail(line, "dst", f"{cells['dst'].strip()!r} is where the flow comes from", "name another end")
        size, start = self._quantity(line, cells, "bytes", 0.0), self._quantity(line, cells, "start", 0.0)
        cap = self._quantity(line, cells, "cap", np.inf)
        if cap == 0:
            self.fail(line, "cap", "is zero, so the flow would never end", "give a rate or leave it empty")
        return src, dst, size, start, cap, self._lane(line, cells)

    def edges(self) -> Ints:
        """``[n_edges, 2]`` from the flow that goes first to the one that waits for it; a circle is reported."""
        number: dict[str, int] = {}
        for row, id_ in enumerate(self.ids):
            number.setdefault(id_, row)
        before: list[list[int]] = []
        for line, cells in self._lines:
            before.append([])
            for id_ in dict.fromkeys((cells.get("depends_on") or "").split()):
                if id_ in number:
                    before[-1].append(number[id_])
                else:
                    near = get_close_matches(id_, number, n=1)
                    fix = f"did you mean {near[0]!r}?" if near else "name the id of another row"
                    self.fail(line, "depends_on", f"no flow {id_!r}", fix)
        circle = _circle(before)
        if circle:
            names = " waits for ".join(self.ids[row] for row in [*circle, circle[0]])
            self.fail(self._lines[circle[0]][0], "depends_on", f"a circle: {names}", "leave one of them out")
        pairs = [(first, row) for row, others in enumerate(before) for first in others]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)

    def _read_ids(self) -> list[str]:
        ids: dict[str, int] = {}
        result = []
        for row, (line, cells) in enumerate(self._lines, start=1):
            id_ = (cells.get("id") or "").strip() if "id" in cells else str(row)
            if not id_ or " " in id_:
                self.fail(line, "id", f"{id_!r} is no id", "give every row one word")
            elif id_ in ids:
                self.fail(line, "id", f"{id_!r} is the id of line {ids[id_]} too", "give every row its own")
            ids.setdefault(id_, line)
            result.append(id_)
        return result

    def _quantity(self, line: int, cells: Mapping[str, str], name: str, default: float) -> float:
        """A figure with its unit in the cell, or in the header; the default where the cell is empty."""
        bare, unit_named = COLUMNS[name]
        column = unit_named if unit_named in cells else bare
        text = (cells.get(column) or "").strip()
        if not text and name not in NEEDED:
            return default
        value = self._number(text) if column == unit_named or text == "0" else None
        if text.startswith("-") or (value is not None and not np.isfinite(value)):
            self.fail(line, column, f"{text!r} is not a figure from 0 up", "give an ordinary number")
            return 0.0
        if value is not None:
            return value
        try:
            return UNITS[name].parse(text)
        except ValueError as error:
            what, _, fix = str(error).partition(": ")
            self.fail(line, column, what, fix)
            return 0.0

    @staticmethod
    def _number(text: str) -> float | None:
        try:
            return float(text)
        except ValueError:
            return None

    def _lane(self, line: int, cells: Mapping[str, str]) -> int:
        name = (cells.get("lane") or "").strip()
        if not name:
            return -1
        if name not in TRAFFIC_CLASSES:
            self.fail(line, "lane", f"no class of traffic {name!r}", f"use one of {', '.join(TRAFFIC_CLASSES)}")
            return -1
        return TRAFFIC_CLASSES.index(name)

    def _end(self, line: int, column: str, text: str) -> int:
        """The vertex of an end; -1 if there is none of that name, which is reported."""
        match = _END.fullmatch(" ".join(text.lower().split()))
        if match is None:
            fix = "write such as `gpu 12`, `node 3`, `node 3 gpu 5`, `storage 7 nic 0`"
            self.fail(line, column, f"{text.strip()!r} is no end", fix)
            return -1
        found = {name: int(value) for name, value in match.groupdict().items() if value and name != "storage"}
        try:
            return _vertex(self._topology, found)
        except ValueError as error:
            what, _, fix = str(error).partition(": ")
            self.fail(line, column, what, fix)
            return -1


def _vertex(topology: Topology, found: Mapping[str, int]) -> int:
    """The vertex of an end that is named by its numbers.

    Raises:
        ValueError: there is no such end; what, and after a colon how to mend it.
    """
    node = topology.wiring.node
    if "of" in found:
        n_nodes, n_nics = topology.storage_endpoints.shape
        if not topology.storage_endpoints.size:
            raise ValueError(f"{topology.name} has no storage nodes: name GPUs or nodes")
        _check("storage node", found["of"], n_nodes)
        _check("NIC of that node", found.get("port", 0), n_nics)
        return int(topology.storage_endpoints[found["of"], found.get("port", 0)])
    if "gpu" in found:
        _check("GPU", found["gpu"], node.n_gpus)
        return found["gpu"]
    _check("node", found["node"], node.count)
    if "local" in found:
        _check("GPU of that node", found["local"], node.gpus)
        return found["node"] * node.gpus + found["local"]
    if node.switched:
        raise ValueError(f"node {found['node']} is no end, its NICs hang on GPUs: name one, as `node 3 gpu 0`")
    return int(topology.hub(found["node"]))


def _check(what: str, number: int, there: int) -> None:
    if number >= there:
        raise ValueError(f"no {what} {number}: they are 0 to {there - 1:,}")


def _circle(before: Sequence[Sequence[int]]) -> list[int]:
    """Flows that wait for each other in turn, the first for the second and so on; empty if there are none."""
    state = [0] * len(before)  # 0 not seen, 1 on the way that is walked, 2 done
    for root in range(len(before)):
        if state[root]:
            continue
        way, left = [root], [iter(before[root])]
        state[root] = 1
        while way:
            following = next(left[-1], None)
            if following is None:
                state[way.pop()] = 2
                left.pop()
            elif state[following] == 1:
                return way[way.index(following) :]
            elif not state[following]:
                state[following] = 1
                way.append(following)
                left.append(iter(before[following]))
    return []
