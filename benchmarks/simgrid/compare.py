"""The golden scenarios by both solvers and, where it is installed, by SimGrid: times of flows and of computing.

Run as ``python benchmarks/simgrid/compare.py [SCENARIO ...]`` from the repository; prints a Markdown table. SimGrid
(``pip install simgrid``, 4.1 or newer) runs the scenarios whose flows all begin at once, each in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np

from ffsim.engine import Flows, simulate_flows

ROOT = Path(__file__).parents[2]
MAX_FLOWS = 100_000  # for what takes long
CONFIG = [
    "network/model:CM02",
    "network/TCP-gamma:0",
    "network/crosstraffic:0",
    "network/weight-S:0",
    "network/latency-factor:1",
    "network/bandwidth-factor:1",
]


def golden() -> Any:
    """The module that reads the golden scenarios."""
    spec = spec_from_file_location("test_simgrid", ROOT / "tests" / "golden" / "test_simgrid.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_simgrid(flows: Flows, capacity: np.ndarray, ends: list[tuple[int, int]]) -> dict[str, Any]:
    """Flows that all begin at once, as direct communications of one actor."""
    from simgrid import ActivitySet, Comm, Engine, LinkInRoute  # noqa: PLC0415 - where it is installed

    began = time.process_time()
    engine = Engine(["compare", *(f"--cfg={option}" for option in CONFIG), "--log=root.thresh:warning"])
    zone = engine.netzone_root.add_netzone_full("zone")
    hosts = [zone.add_host(f"host-{host}", 1e9) for host in range(max(map(max, ends)) + 1)]
    links = [zone.add_link(f"link-{link}", float(rate)) for link, rate in enumerate(capacity)]
    for (src, dst), way in dict(zip(ends, flows.links.lists(), strict=True)).items():
        zone.add_route(hosts[src], hosts[dst], [LinkInRoute(links[link]) for link in way], False)
    zone.seal()
    comms = []

    def send_all() -> None:
        for (src, dst), size in zip(ends, flows.size_bytes.tolist(), strict=True):
            comms.append(Comm.sendto_async(hosts[src], hosts[dst], int(size)))
        ActivitySet(comms).wait_all()

    hosts[0].add_actor("sender", send_all)
    ready = time.process_time()
    engine.run()
    finish = [comm.finish_time for comm in comms]
    return {"finish_s": finish, "setup_s": ready - began, "run_s": time.process_time() - ready}


def at_once(flows: Flows) -> bool:
    """Whether all flows begin at zero, with nothing to wait for."""
    later = [flows.start_s, flows.latency_s, flows.edges]
    return all(column is None or not np.any(column) for column in later)


def ends_of(module: Any, scenario: dict[str, Any]) -> list[tuple[int, int]]:
    """Source and destination of every flow."""
    src, dst = module.traffic(scenario)[:2]
    return list(zip(src.tolist(), dst.tolist(), strict=True))


def seconds(flows: Flows, capacity: np.ndarray, twin: Any) -> tuple[float, np.ndarray]:
    """The best of three runs, and the ends."""
    best = np.inf
    for _ in range(3 if len(flows) < MAX_FLOWS else 2):
        began = time.process_time()
        ends = simulate_flows(flows, capacity, twin=twin).end_s
        best = min(best, time.process_time() - began)
    return best, ends


def main(names: list[str]) -> None:
    """Print the table."""
    module = golden()
    live = find_spec("simgrid") is not None
    here = ["SimGrid, here"] if live else []
    rows = [["scenario", "flows", "compiled", "plain", "SimGrid, as recorded", *here, "largest difference"]]
    rows.append(["---"] * len(rows[0]))
    for name in names or list(module.DATA["scenarios"]):
        scenario = module.DATA["scenarios"][name]
        flows, capacity = module.flows_of(scenario)
        took, ends = seconds(flows, capacity, "compiled")
        plain = f"{seconds(flows, capacity, 'plain')[0]:.2g} s" if len(flows) <= MAX_FLOWS else "not run"
        cost = scenario["simgrid_cost"]
        worst = np.abs(ends[:: scenario["stride"]] / np.array(scenario["finish_s"]) - 1).max()
        row = [f"`{name}`", f"{len(flows):,}", f"{took:.2g} s", plain]
        row.append(f"{cost['setup_cpu_s'] + cost['run_cpu_s']:.2g} s")
        if live:
            row.append(_run_apart(name, ends) if at_once(flows) and len(flows) <= MAX_FLOWS else "not run")
        rows.append([*row, f"{worst:.0e}"])
    for row in rows:
        print("|", " | ".join(row), "|")


def _run_apart(name: str, ours: np.ndarray) -> str:
    """SimGrid on one scenario, in a process of its own: what it took, and how far apart the ends are."""
    done = subprocess.run([sys.executable, __file__, "--simgrid", name], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    apart = np.abs(np.array(found["finish_s"]) / ours - 1).max()
    return f"{found['setup_s'] + found['run_s']:.2g} s ({apart:.0e})"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--simgrid"]:
        reader = golden()
        wanted = reader.DATA["scenarios"][sys.argv[2]]
        print(json.dumps(by_simgrid(*reader.flows_of(wanted), ends_of(reader, wanted))))
    else:
        main(sys.argv[1:])
