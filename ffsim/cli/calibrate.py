"""``ffsim calibrate``: measured operators against the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ffsim.cli.options import chosen_format, output_options
from ffsim.cli.output import Talk, check_writable, write


@click.command("calibrate")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--gpu", required=True, metavar="NAME", help="GPU of the catalogue on which FILE was measured.")
@click.option(
    "--fit", is_flag=True, help="Fit a profile to FILE, write it to -o, and show errors before and on rows left out."
)
@output_options
def command(file: Path, gpu: str, *, fit: bool, **options: Any) -> None:
    """Compare the measured operators and collectives of FILE (CSV, times in microseconds) with the models.

    Columns are those of docs/reference/measured-operators.md: op, us or latency_us, and the sizes each operator needs.
    Rows of other GPUs and operators without a model are counted and left out. With the extra ffsim[aiconfigurator],
    FILE may also be one of that package's Parquet tables.

    \b
    Examples:
      ffsim calibrate my-kernels.csv --gpu h200-sxm
      ffsim calibrate aiconfigurator:gemm/trtllm/1.3.0rc20 --gpu h100-sxm
      ffsim calibrate my-kernels.csv --gpu h800-sxm --fit -o my-h800.yaml
    """  # noqa: D301 - click reads the escape
    from ffsim.compute.calibrate import fit_profile  # noqa: PLC0415 - help must not wait for NumPy
    from ffsim.report import present_calibration, present_refit, render  # noqa: PLC0415
    from ffsim.study.calibration import calibrate  # noqa: PLC0415

    output = options["output"]
    if fit and output is None:
        raise click.UsageError("--fit needs -o FILE.yaml to write the profile to")
    check_writable(output)
    talk = Talk(quiet=options["quiet"])
    if not fit:
        result = calibrate(file, gpu)
        write(render(present_calibration(result), chosen_format(options["format_"], output)), output)
        return
    talk.progress(f"fitting the kernels of {file}")
    fitted = fit_profile(file, gpu)
    write(fitted.yaml(), output)
    write(render(present_refit(fitted), chosen_format(options["format_"], None)), None)
    talk.note(f"wrote {output}: name it as profile: in a GPU file to plan with it")
