"""Runs the command line in this process, as the console script would."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from ffsim.cli.main import run_cli

DATA = Path(__file__).parents[1] / "data"
MOE = str(DATA / "tiny-pretrain.yaml")


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture
def ffsim(capfd, tmp_path, monkeypatch):
    """``ffsim("run", ...)`` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*args):
        code = run_cli([str(arg) for arg in args])
        out, err = capfd.readouterr()
        return Answer(code, out, err)

    return call
