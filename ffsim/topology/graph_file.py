"""A user's own graph: read from a file, checked all at once, and put into arrays."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ffsim.errors import Problem, ScenarioError
from ffsim.topology.arrays import Floats, Ints
from ffsim.topology.fabric_spec import MAX_MESH_SWITCHES
from ffsim.topology.spec import NodeSpec, StorageSpec
from ffsim.units import BANDWIDTH, TIME, Unit

if TYPE_CHECKING:
    import networkx as nx

MAX_FILE_BYTES = 64 * 2**20
MAX_PARALLEL = 4096
MOST_SHOWN = 3

_PORT_NAME = re.compile(r"(node|storage)(\d{1,9})[/.]nic(\d{1,9})")
_COLUMNS = ("a", "b", "bandwidth", "latency", "n_links")

Port = tuple[bool, int, int]  # storage, node, nic: compute ports sort first
Edge = tuple[Any, Any, dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SwitchGraph:
    """A checked graph; end points stand in the order of `Endpoints`, switches in that of the file.

    Attributes:
        home: ``[n_endpoints]``, the switch of each.
        bandwidth_bytes_per_s, latency_s: ``[n_endpoints]``, line rate and one-way latency of its cable.
        a, b: ``[n_cables]``, switches; parallel cables stand one by one.
        trunk_bandwidth_bytes_per_s, trunk_latency_s: ``[n_cables]``.
        switches: names.
        digest: SHA-256 of all this.
    """

    home: Ints
    bandwidth_bytes_per_s: Floats
    latency_s: Floats
    a: Ints
    b: Ints
    trunk_bandwidth_bytes_per_s: Floats
    trunk_latency_s: Floats
    switches: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of all that determines an answer."""
        columns = (
            self.home,
            self.bandwidth_bytes_per_s,
            self.latency_s,
            self.a,
            self.b,
            self.trunk_bandwidth_bytes_per_s,
            self.trunk_latency_s,
        )
        return hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()


def read_graph(path: Path) -> nx.Graph[Any]:
    """Read a graph, unchecked.

    GraphML and node-link JSON say it all. A list of cables (CSV with the columns a, b, bandwidth, latency and, if
    wanted, n_links) knows end points by their names: ``node3/nic0``, ``storage1/nic0``; every other name is a switch.

    Raises:
        ScenarioError: no such file, not a graph, or directed.
    """
    readers = {".graphml": _read_graphml, ".json": _read_json, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    try:
        if reader is None:
            raise _failure(path, f"cannot tell what {path.suffix!r} is", f"use one of {', '.join(readers)}")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _failure(path, f"is larger than {MAX_FILE_BYTES // 2**20} MiB", "is this the right file?")
        graph = reader(path)
    except OSError as error:
        raise _failure(path, f"cannot be read: {error.strerror or error}", "check the path") from None
    if graph.is_directed():
        raise _failure(path, "is a directed graph", "save it undirected: a cable carries both directions")
    return graph


def check_graph(
    graph: nx.Graph[Any], where: str, nodes: NodeSpec, storage: StorageSpec | None, ports: int | None
) -> SwitchGraph:
    """Check a graph against the cluster it joins.

    Node attributes: ``kind``, ``endpoint`` or ``switch``; of end points ``node`` and ``nic`` (from 0) and, for ports of
    storage nodes, ``storage: true``. Edge attributes: ``bandwidth`` (``200 Gbit/s``: the line rate of one cable),
    ``latency`` (``0.5 us``, with what the switches on either side add to it) and ``n_links`` (parallel cables, 1).

    Args:
        graph: undirected; the edges of a multigraph are parallel cables too.
        where: what messages call it.
        nodes: compute nodes of the cluster.
        storage: its storage nodes.
        ports: of a switch, none if not known.

    Raises:
        ScenarioError: everything that is wrong with it.
    """
    check = _Check(where)
    kind = {name: check.kind(name, data) for name, data in graph.nodes(data=True)}
    ends: dict[Any, Port] = {}
    for name, data in graph.nodes(data=True):
        port = check.port(name, data) if kind[name] == "endpoint" else None
        if port is not None:
            ends[name] = port
    check.match(ends, nodes, storage)
    switches = {name: number for number, name in enumerate(name for name in graph if kind[name] == "switch")}
    if len(switches) > MAX_MESH_SWITCHES:
        check.report("", f"has {len(switches):,} switches, and ffsim takes {MAX_MESH_SWITCHES:,}", "leave some out")
    cables = [cable for edge in graph.edges(data=True) if (cable := check.cable(edge, kind)) is not None]
    check.hanging(kind, cables)
    check.degrees(switches, cables, ports)
    check.connected(graph)
    check.raise_problems()
    return _to_arrays(ends, switches, cables)


Cable = tuple[Any, Any, float, float, int]  # an end point first, then a switch; or two switches


class _Check:
    """Collects everything wrong with a graph; each method looks at one thing."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._problems: list[Problem] = []

    def report(self, path: str, what: str, fix: str) -> None:
        self._problems.append(Problem(where=self._where, path=path, what=what, fix=fix))

    def raise_problems(self) -> None:
        if self._problems:
            raise ScenarioError(self._problems)

    def kind(self, name: Any, data: dict[str, Any]) -> str | None:
        kind = data.get("kind")
        if isinstance(kind, str) and kind in {"endpoint", "switch"}:
            return kind
        self.report(
            f"vertex {name}", f"got kind {kind!r}" if kind is not None else "has no kind", "use endpoint or switch"
        )
        return None

    def port(self, name: Any, data: dict[str, Any]) -> Port | None:
        """What an end point is, none if it does not say."""
        numbers = [self._number(name, data, key) for key in ("node", "nic")]
        storage = data.get("storage", False)
        storage = {"true": True, "false": False}.get(storage.lower(), storage) if isinstance(storage, str) else storage
        if not isinstance(storage, bool):
            self.report(f"vertex {name}", f"got storage {storage!r}", "use true or false")
        node, nic = numbers
        return None if node is None or nic is None or not isinstance(storage, bool) else (storage, node, nic)

    def _number(self, name: Any, data: dict[str, Any], key: str) -> int | None:
        value = data.get(key)
        if isinstance(value, str) and value.isdecimal() and len(value) < 10:
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        got = f"has no {key}" if value is None else f"got {key} {value!r}"
        self.report(f"vertex {name}", got, "an end point needs node and nic, whole numbers from 0")
        return None

    def match(self, ends: dict[Any, Port], nodes: NodeSpec, storage: StorageSpec | None) -> None:
        """End points are those of the cluster, each once."""
        wanted = {(False, node, nic) for node in range(nodes.count) for nic in range(nodes.nics)}
        if storage is not None:
            wanted |= {(True, node, nic) for node in range(storage.nodes) for nic in range(storage.nics)}
        owner: dict[Port, Any] = {}
        for name, port in ends.items():
            if port in owner:
                self.report(f"vertex {name}", f"is {_shown(port)}, as vertex {owner[port]} is", "name each port once")
            owner[port] = name
        stores = f" and {storage.nodes:,} storage nodes x {storage.nics}" if storage else ""
        cluster = f"the cluster has {nodes.count:,} nodes x {nodes.nics} nics{stores}"
        missing, extra = sorted(wanted - owner.keys()), sorted(owner.keys() - wanted)
        if missing:
            self.report("", f"has no end point for {_some(map(_shown, missing), len(missing))}", cluster)
        if extra:
            self.report("", f"has end points that the cluster lacks: {_some(map(_shown, extra), len(extra))}", cluster)

    def cable(self, edge: Edge, kind: dict[Any, str | None]) -> Cable | None:
        """An edge as cables, none if something is wrong with it."""
        a, b, data = edge
        path = f"edge {a} - {b}"
        bandwidth = self._quantity(path, data, "bandwidth", BANDWIDTH, zero=False)
        latency = self._quantity(path, data, "latency", TIME, zero=True)
        n_links = data.get("n_links", 1)
        if isinstance(n_links, str) and n_links.isdecimal() and len(n_links) < 10:
            n_links = int(n_links)
        if not isinstance(n_links, int) or isinstance(n_links, bool) or not 1 <= n_links <= MAX_PARALLEL:
            self.report(path, f"got n_links {n_links!r}", f"use a whole number from 1 to {MAX_PARALLEL:,}")
            return None
        if a == b:
            self.report(path, "joins a vertex to itself", "leave it out")
            return None
        if kind[a] == kind[b] == "endpoint":
            self.report(path, "joins two end points", "end points hang on switches")
            return None
        if bandwidth is None or latency is None:
            return None
        return (a, b, bandwidth, latency, n_links) if kind[a] == "endpoint" else (b, a, bandwidth, latency, n_links)

    def _quantity(self, path: str, data: dict[str, Any], key: str, unit: Unit, *, zero: bool) -> float | None:
        value = data.get(key)
        found = None
        if value is None or value == "":
            self.report(path, f"has no {key}", f"add it, such as {'200 Gbit/s' if unit is BANDWIDTH else '0.5 us'}")
        elif str(value).strip().startswith("-"):
            self.report(path, f"{key} {value!r} is negative", "give more than 0")
        else:
            try:
                found = unit.parse(value)
            except ValueError as error:
                what, _, fix = str(error).partition(": ")
                self.report(path, f"{key}: {what}", fix)
        if found == 0 and not zero:
            self.report(path, f"{key} {value!r} is zero", "leave out cables that carry nothing")
            return None
        return found

    def hanging(self, kind: dict[Any, str | None], cables: list[Cable]) -> None:
        """Every end point hangs on one cable."""
        count = dict.fromkeys((name for name, each in kind.items() if each == "endpoint"), 0)
        for a, _, _, _, n_links in cables:
            if a in count:
                count[a] += n_links
        for name, n in count.items():
            if n > 1:
                self.report(f"vertex {name}", f"hangs on {n} cables", "a port has one: give the node more nics")

    def degrees(self, switches: dict[Any, int], cables: list[Cable], ports: int | None) -> None:
        """No switch has more cables than ports."""
        count = dict.fromkeys(switches, 0)
        for cable in cables:
            for name in cable[:2]:
                if name in count:
                    count[name] += cable[4]
        for name, n in count.items():
            if ports is not None and n > ports:
                self.report(
                    f"vertex {name}", f"has {n} cables, and the switch has {ports} ports", "name a larger switch"
                )

    def connected(self, graph: nx.Graph[Any]) -> None:
        """There is a way from everywhere to everywhere."""
        import networkx as nx  # noqa: PLC0415 - a heavy import that only graphs need

        parts = [min(map(str, part)) for part in nx.connected_components(graph)]
        if not parts:
            self.report("", "has no vertices", "add end points and switches")
        if len(parts) > 1:
            apart = _some(sorted(parts), len(parts))
            self.report(
                "", f"falls into {len(parts):,} parts without a way between them: those of {apart}", "add cables"
            )


def _shown(port: Port) -> str:
    storage, node, nic = port
    return f"{'storage node' if storage else 'node'} {node} nic {nic}"


def _some(items: Iterable[str], n: int) -> str:
    shown = [item for item, _ in zip(items, range(MOST_SHOWN), strict=False)]
    return ", ".join(shown) + (f" and {n - len(shown):,} more" if n > len(shown) else "")


def _to_arrays(ends: dict[Any, Port], switches: dict[Any, int], cables: list[Cable]) -> SwitchGraph:
    access = sorted((ends[a], switches[b], rate, latency) for a, b, rate, latency, _ in cables if a in ends)
    joined = [(switches[a], switches[b], rate, latency, n) for a, b, rate, latency, n in cables if a in switches]
    trunks = sorted((min(a, b), max(a, b), rate, latency, n) for a, b, rate, latency, n in joined)
    n_links = np.array([n for _, _, _, _, n in trunks], dtype=np.int64)
    return SwitchGraph(
        home=np.array([switch for _, switch, _, _ in access], dtype=np.int64),
        bandwidth_bytes_per_s=np.array([each for _, _, each, _ in access], dtype=np.float64),
        latency_s=np.array([each for _, _, _, each in access], dtype=np.float64),
        a=np.repeat(np.array([a for a, _, _, _, _ in trunks], dtype=np.int64), n_links),
        b=np.repeat(np.array([b for _, b, _, _, _ in trunks], dtype=np.int64), n_links),
        trunk_bandwidth_bytes_per_s=np.repeat(np.array([rate for _, _, rate, _, _ in trunks]), n_links),
        trunk_latency_s=np.repeat(np.array([latency for _, _, _, latency, _ in trunks]), n_links),
        switches=tuple(map(str, switches)),
    )


def _failure(path: Path, what: str, fix: str) -> ScenarioError:
    return ScenarioError(Problem(where=str(path), what=what, fix=fix))


def _read_graphml(path: Path) -> nx.Graph[Any]:
    import networkx as nx  # noqa: PLC0415

    try:
        graph: nx.Graph[Any] = nx.read_graphml(path)
    except (nx.NetworkXException, SyntaxError, ValueError, KeyError) as error:  # ElementTree's errors are SyntaxErrors
        raise _failure(path, f"is not GraphML: {error}", "save it again, for example with networkx") from None
    return graph


def _read_json(path: Path) -> nx.Graph[Any]:
    import networkx as nx  # noqa: PLC0415

    try:
        data = json.loads(path.read_bytes())
        edges = data["links"] if "links" in data else data["edges"]
        graph: nx.MultiGraph[Any] = nx.MultiDiGraph() if data.get("directed") else nx.MultiGraph()
        graph.add_nodes_from((node["id"], node) for node in data["nodes"])
        for edge in edges:
            graph.add_edge(edge["source"], edge["target"], None, **{k: v for k, v in edge.items() if k != "key"})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        fix = 'write {"nodes": [{"id": ...}], "links": [{"source": ..., "target": ...}]}'
        raise _failure(path, f"is not a node-link graph: {what}", fix) from None
    return graph


def _read_csv(path: Path) -> nx.Graph[Any]:
    import networkx as nx  # noqa: PLC0415

    graph: nx.MultiGraph[Any] = nx.MultiGraph()
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _failure(path, f"is not a CSV file: {error}", "save it as UTF-8 text with commas") from None
    problems = []
    for number, row in enumerate(rows, start=2):
        known = {"a", "b"} <= row.keys() and None not in row and set(row) <= set(_COLUMNS)
        if not (known and all((row[end] or "").strip() for end in ("a", "b"))):
            what = f"got {', '.join(str(key) for key in row if key is not None)}"
            problems.append(Problem(where=f"{path}:{number}", what=what, fix=f"needs columns {', '.join(_COLUMNS)}"))
            continue
        data = {key: value for key, value in row.items() if key not in {"a", "b"} and value}
        graph.add_edge(row["a"].strip(), row["b"].strip(), None, **data)
    if problems:
        raise ScenarioError(problems)
    for name, data in graph.nodes(data=True):
        match = _PORT_NAME.fullmatch(name)
        data["kind"] = "endpoint" if match else "switch"
        if match:
            data.update(storage=match[1] == "storage", node=int(match[2]), nic=int(match[3]))
    return graph
