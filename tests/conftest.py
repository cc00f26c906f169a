"""Small scenarios shared by tests, and the exact V3 run, simulated once per worker."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from ffsim.engine import Csr, Flows, simulate_flows
from ffsim.study import RunResult, Scenario, run

settings.register_profile("ffsim", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("ffsim")

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    """Compile the flow solver before anything is timed, or reads what is said while compiling."""
    one = Flows(links=Csr(np.array([0, 1]), np.array([0])), size_bytes=np.ones(1), edges=np.zeros((0, 2), dtype=int))
    simulate_flows(one, np.ones(1))


@pytest.fixture(scope="session")
def v3() -> RunResult:
    return run(Scenario(cluster="h800-2048", workload="deepseek-v3-pretrain"))


@pytest.fixture(scope="session")
def tiny() -> RunResult:
    return run(Scenario(cluster="h800-2048", workload=str(DATA / "tiny-pretrain.yaml")))


@pytest.fixture(scope="session")
def tiny_1f1b() -> RunResult:
    return run(Scenario(cluster="h800-2048", workload=str(DATA / "tiny-1f1b.yaml")))
