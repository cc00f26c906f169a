"""What a calibration shows: errors by family, the rows furthest off, a fit before and after."""

from __future__ import annotations

from ffsim.compute.calibrate import WORST_ROWS, Calibration, FittedProfile, worst
from ffsim.report.tables import Presentation, Table


def present_calibration(result: Calibration) -> Presentation:
    """Errors by family and the worst rows."""
    families = [
        (
            each.name,
            each.errors.rows,
            f"{each.errors.median:.1%}",
            f"{each.errors.p90:.1%}",
            f"{each.errors.bias:+.1%}",
            f"{each.measured:.0%}",
            f"{each.extrapolated:.0%}",
        )
        for each in result.families()
    ]
    skipped = "; ".join(f"{rows} rows {reason}" for reason, rows in result.skipped.items())
    errors = Table(
        "errors of predicted against measured times",
        ("family", "rows", "median", "P90", "bias", "shape known", "extrapolated"),
        families,
        right=(1, 2, 3, 4, 5, 6),
        footer=f"left out: {skipped}" if skipped else "",
    )
    rows = [
        (
            each.case.line,
            each.family,
            each.case.what,
            f"{each.case.seconds * 1e6:.1f}",
            f"{each.seconds * 1e6:.1f}",
            f"{each.error:+.1%}",
            each.basis,
        )
        for each in worst(result.predictions, WORST_ROWS)
    ]
    columns = ("line", "family", "shape", "measured us", "predicted us", "error", "basis")
    furthest = Table("rows furthest off", columns, rows, right=(0, 3, 4, 5))
    data = result.to_dict()
    return Presentation(f"{result.file}\non {result.gpu.title}", [errors, furthest], data, data["families"])


def present_refit(fitted: FittedProfile) -> Presentation:
    """Errors of every fitted family before the fit, and on rows left out of it."""
    rows = [
        (
            each.kernel.family,
            each.kernel.dtype,
            each.kernel.library,
            each.after.rows,
            f"{each.before.median:.1%}",
            f"{each.before.p90:.1%}",
            f"{each.after.median:.1%}",
            f"{each.after.p90:.1%}",
        )
        for each in fitted.refits
    ]
    columns = ("family", "format", "library", "rows", "median before", "P90", "median held out", "P90")
    footer = f"not fitted: {'; '.join(fitted.left)}" if fitted.left else ""
    table = Table(
        "errors before the fit, and on rows left out of it in five folds", columns, rows, (3, 4, 5, 6, 7), footer
    )
    return Presentation(fitted.profile.title, [table], fitted.to_dict())
