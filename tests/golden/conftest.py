"""Stored outputs can be exchanged for others of the same form: ``pytest tests/golden --golden FILE``."""

from pathlib import Path

HERE = Path(__file__).parent


def pytest_addoption(parser):
    parser.addoption("--golden", type=Path, default=HERE / "mla_moe_golden.npz", help="model outputs to compare with")
    parser.addoption(
        "--eplb-golden", type=Path, default=HERE / "eplb_golden.json", help="expert placements to compare with"
    )
    parser.addoption(
        "--zero-bubble-golden", type=Path, default=HERE / "zero_bubble_golden.json", help="schedules to compare with"
    )
