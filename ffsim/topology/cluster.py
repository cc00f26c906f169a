"""A cluster file and the parts it names, together: everything there is to know before wiring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffsim
from ffsim.config import Document, Override, Shelf, build, expect_kind, load_document
from ffsim.errors import ScenarioError
from ffsim.hardware import Cpu, Gpu, Nic, Ssd, Switch, load_part
from ffsim.topology.fabric_spec import GraphSpec
from ffsim.topology.graph_file import SwitchGraph, check_graph, read_graph
from ffsim.topology.host import missing_figures
from ffsim.topology.spec import ClusterSpec


def _installed() -> Path:
    """The shipped cluster files: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(ffsim.__file__).parent
    inside = package / "topologies"
    return inside if inside.is_dir() else package.parent / "topologies"


SHELF = Shelf("cluster", "topologies", _installed())


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster file with its parts looked up.

    Attributes:
        name: of the file, without folder and suffix.
        switch: the switch that the whole fabric is made of; none for a graph that names none.
        graph: the graph that the fabric is, where it is a user's own.
        storage_nic, storage_cpu, storage_ssd: parts of a storage node, where there are any.
    """

    name: str
    spec: ClusterSpec
    gpu: Gpu
    nic: Nic
    switch: Switch | None
    graph: SwitchGraph | None = None
    cpu: Cpu | None = None
    storage_nic: Nic | None = None
    storage_cpu: Cpu | None = None
    storage_ssd: Ssd | None = None

    @property
    def n_nodes(self) -> int:
        """Compute nodes."""
        return self.spec.nodes.count

    @property
    def gpus_per_node(self) -> int:
        """GPUs of one node."""
        return self.spec.nodes.gpus

    @property
    def n_gpus(self) -> int:
        """GPUs of the cluster."""
        return self.n_nodes * self.gpus_per_node

    @property
    def scale_up_gpus(self) -> int:
        """GPUs that reach one another over NVLink: a whole node, a bridged pair, or only the one itself."""
        return {"nvswitch": self.gpus_per_node, "nvlink_pairs": 2, "pcie": 1}[self.spec.nodes.interconnect]

    @property
    def scale_up_bytes_per_s(self) -> float:
        """Usable rate, per direction, from a GPU to the GPUs of its NVLink group; of its host link without NVLink."""
        usable = self.gpu.scale_up_usable
        return self.gpu.host_link.value if self.scale_up_gpus == 1 or usable is None else usable.value

    @property
    def scale_out_bytes_per_s(self) -> float:
        """Usable rate, per direction, between one GPU and the fabric when all GPUs of its node share the NICs."""
        return self.port_bytes_per_s(self.nic) * self.spec.nodes.nics / self.gpus_per_node

    def port_bytes_per_s(self, nic: Nic) -> float:
        """Usable rate, per direction, of a NIC on a port of the fabric."""
        port = self.fabric_port_bytes_per_s
        return min(nic.bandwidth.value, port) * nic.payload_share(port)

    @property
    def fabric_port_bytes_per_s(self) -> float:
        """Line rate of a port of the fabric, infinite where its cables have rates of their own."""
        return math.inf if self.switch is None else self.switch.bandwidth.value


def load_cluster(name: str, overrides: Sequence[Override] = ()) -> Cluster:
    """Load a cluster by name or path, with its parts.

    Args:
        name: ``h800-2048`` (the working directory is searched first, then what ships with ffsim) or a path.
        overrides: ``--set`` options, applied before anything is checked.

    Raises:
        ScenarioError: no such file, a file of another kind, or everything that is wrong with it.

    >>> load_cluster("h800-2048").n_gpus
    2048
    """
    document = load_document(SHELF, name, overrides=overrides)
    expect_kind(document, "cluster")
    spec = build(document, ClusterSpec)
    parts = _find_parts(document, spec)
    return Cluster(name=Path(document.file).stem, spec=spec, **parts)


def _find_parts(document: Document, spec: ClusterSpec) -> dict[str, Any]:
    """Load every part that the file names, by the field of `Cluster` it belongs to; all failures at once."""
    wanted: dict[str, tuple[tuple[str, str], Any]] = {
        "gpu": (("nodes", "gpu"), Gpu),
        "nic": (("nodes", "nic"), Nic),
        "cpu": (("nodes", "cpu"), Cpu),
        "switch": (("fabric", "switch"), Switch),
        "storage_nic": (("storage", "nic"), Nic),
        "storage_cpu": (("storage", "cpu"), Cpu),
        "storage_ssd": (("storage", "ssd"), Ssd),
    }
    parts: dict[str, Any] = {}
    for field, (path, type_) in wanted.items():
        section, key = path
        name = getattr(getattr(spec, section), key, None)
        if name is None:
            continue
        try:
            parts[field] = load_part(type_, name, near=Path(document.file).parent)
        except ScenarioError as error:
            for problem in error.problems:
                if problem.where:  # a mistake inside the part's own file
                    document.problems.append(problem)
                else:
                    document.report(path, problem.what, problem.fix)
    if "gpu" in parts and spec.nodes.interconnect != "pcie" and not _has_nvlink(parts["gpu"]):
        document.report(("nodes", "interconnect"), f"{parts['gpu'].title} has no NVLink", "use `pcie`")
    if isinstance(spec.fabric, GraphSpec):
        parts["graph"] = _find_graph(document, spec, parts.setdefault("switch", None))
    if "cpu" in parts and (missing := missing_figures(spec.nodes, parts["cpu"])):
        what = f"{parts['cpu'].title} does not state {', '.join(missing)}"
        document.report(("nodes", "host"), what, "add them to its file, or leave host out")
    document.raise_problems()
    return parts


def _find_graph(document: Document, spec: ClusterSpec, switch: Switch | None) -> SwitchGraph | None:
    """Read and check the graph that the file names; nothing where there are problems, which are noted."""
    assert isinstance(spec.fabric, GraphSpec)
    near = Path(document.place(("fabric", "file")).file).parent
    beside = near / spec.fabric.file
    path = beside if beside.exists() else Path(spec.fabric.file)
    try:
        ports = None if switch is None else switch.ports.value
        return check_graph(read_graph(path), str(path), spec.nodes, spec.storage, ports)
    except ScenarioError as error:
        document.problems += error.problems
        return None


def _has_nvlink(gpu: Gpu) -> bool:
    return gpu.scale_up_usable is not None and gpu.scale_up_latency is not None
