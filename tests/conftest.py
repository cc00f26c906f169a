"""Small scenarios shared by tests, and the exact V3 run, simulated once per worker."""

from pathlib import Path

import pytest
from hypothesis import settings

from ffsim.study import RunResult, Scenario, run

settings.register_profile("ffsim", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("ffsim")

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def v3() -> RunResult:
    return run(Scenario(cluster="h800-2048", workload="deepseek-v3-pretrain"))


@pytest.fixture(scope="session")
def tiny() -> RunResult:
    return run(Scenario(cluster="h800-2048", workload=str(DATA / "tiny-pretrain.yaml")))


@pytest.fixture(scope="session")
def tiny_1f1b() -> RunResult:
    return run(Scenario(cluster="h800-2048", workload=str(DATA / "tiny-1f1b.yaml")))
