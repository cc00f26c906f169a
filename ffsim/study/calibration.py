"""Measured operators and collectives against their models: what ``ffsim calibrate`` compares."""

from __future__ import annotations

from pathlib import Path

from ffsim.collectives import is_transfer, read_transfer
from ffsim.compute.calibrate import Calibration
from ffsim.compute.calibrate import calibrate as calibrate_kernels
from ffsim.compute.cells import Case, Cells, Foreign, ForeignReader
from ffsim.compute.readers import TIMES
from ffsim.hardware import Gpu


def calibrate(path: Path, gpu_name: str) -> Calibration:
    """Compare a file of measured operators and collectives with the models.

    Args:
        path: CSV file, Parquet table or ``aiconfigurator:family/framework/version``.
        gpu_name: GPU of the catalogue.

    Raises:
        ScenarioError: no such GPU, or everything that is wrong in the file.
    """
    return calibrate_kernels(path, gpu_name, _transfers)


def _transfers(gpu: Gpu) -> ForeignReader:
    """The reader of rows that run over the links of a GPU."""

    def read(cells: Cells, line: int) -> Foreign | None:
        op = cells.text("op")
        if not is_transfer(op):
            cells.fail("op", f"unknown collective {op!r}", "see docs/reference/measured-operators.md")
            return None
        seconds, row = cells.number(*TIMES) * 1e-6, read_transfer(cells, gpu)
        if row is None or cells.problems:
            return None
        case = Case(line=line, label=row.family, what=row.what, calls=(), seconds=seconds)
        return Foreign(case=case, seconds=row.seconds, least_s=row.least_s)

    return read
