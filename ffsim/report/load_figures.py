"""Figures of expert load as SVG text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ffsim.model.balancing import Balancing, Method
from ffsim.report.canvas import INK, drawing, grid, legend, sheet, to_svg
from ffsim.units import percent, significant

# Of Tol's palette for colour-blind readers, and in no other figure.
METHOD: dict[Method, str] = {"bias": "#117733", "auxiliary loss": "#aa4499"}
DASHES = {"bias": "solid", "auxiliary loss": (0, (4, 1.5))}
LAST = 0.1  # the end of a run is the mean over its last tenth


def load_over_steps(runs: Sequence[Balancing]) -> str:
    """Busiest expert over the mean while routers are balanced: mean and range over layers, one line a method."""
    title = "The busiest expert over the mean: " + "; ".join(_found(run) for run in runs)
    with drawing("load-over-steps"):
        figure, axes = sheet(title, 150.0, left=30.0, legend=14.0)
        for run in runs:
            color, steps = METHOD[run.method], np.arange(len(run.loads))
            uneven = run.max_over_mean
            axes.fill_between(steps, uneven.min(axis=1), uneven.max(axis=1), color=color, alpha=0.15, linewidth=0)
            axes.plot(steps, uneven.mean(axis=1), color=color, linewidth=1.2, linestyle=DASHES[run.method])
        axes.axhline(1.0, color=INK, linewidth=0.8)
        axes.text(0.0, 1.0, "perfect balance ", va="bottom", ha="left")
        legend(axes, {f"{run.method}, rate {run.rate:g}": METHOD[run.method] for run in runs}, columns=2)
        axes.set_xlim(0, max(len(run.loads) for run in runs) - 1)
        axes.set_ylim(0.9, None)
        axes.set_xlabel("step")
        axes.set_ylabel("load of the busiest expert over the mean")
        grid(axes, "y")
        return to_svg(figure, title)


def _found(run: Balancing) -> str:
    """What a run shows, in words."""
    uneven = run.max_over_mean.mean(axis=1)
    end = float(uneven[-max(1, round(LAST * len(uneven))) :].mean())
    lost = 1 - float(run.quality_frac[-1].mean())
    return (
        f"{run.method} from {significant(float(uneven[0]), 2)} to {significant(end, 2)}, "
        f"giving up {percent(lost, 2)} of the chosen scores"
    )
