"""Interpolation on measured kernels: what the physical model misses near a shape, learnt from its neighbours.

The logarithm of measured over modelled time is taken as a smooth random function of the logarithm of the shape
(kriging, or Gaussian-process regression). Between measured shapes it is interpolated; far from them the correction
fades and the physical model stands alone: that is the extrapolation rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

REACH = 4.0  # octaves of a shape over which residuals resemble each other
VARIANCE = 0.03  # of the residual: the model is off by some 17 % at a shape, before looking at neighbours
NOISE = 0.003  # of one measurement: some 5 %
NEAR = 2.0  # octaves within which a shape counts as interpolated
CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Residuals:
    """Residuals at measured shapes.

    Attributes:
        shapes: ``[n_rows, n_axes]``, base-2 logarithms.
        weights: ``[n_rows]``, of the prediction.
    """

    shapes: Array
    weights: Array

    @classmethod
    def of(cls, shapes: Array, residuals: Array) -> Residuals:
        """Fit the weights.

        Args:
            shapes: ``[n_rows, n_axes]``, base-2 logarithms.
            residuals: ``[n_rows]``, log of measured over modelled time.
        """
        covariance = VARIANCE * _correlation(np.sqrt(_squared(shapes, shapes)))
        weights = VARIANCE * np.linalg.solve(covariance + NOISE * np.eye(len(shapes)), residuals)
        return cls(shapes.astype(np.float32), weights.astype(np.float32))

    def predict(self, shapes: Array) -> tuple[Array, Array]:
        """The expected residual at other shapes.

        Args:
            shapes: ``[n_ops, n_axes]``, base-2 logarithms.

        Returns:
            ``[n_ops]`` residuals and ``[n_ops]`` distance to the nearest measured shape. [octaves]
        """
        residual, nearest = np.empty(len(shapes)), np.empty(len(shapes))
        for start in range(0, len(shapes), CHUNK):
            part = slice(start, start + CHUNK)
            distance = np.sqrt(_squared(shapes[part].astype(np.float32), self.shapes))
            nearest[part] = distance.min(axis=1)
            residual[part] = _correlation(distance) @ self.weights
        return residual, nearest


def _squared(a: Array, b: Array) -> Array:
    """Squared distances of every row of one array to every row of another: ``[n_a, n_b]``."""
    squared: Array = np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * (a @ b.T), 0)
    return squared


def _correlation(distance: Array) -> Array:
    """Matern's of order 3/2: smooth, but not more so than a library's choice of tiles."""
    scaled = distance * np.float32(np.sqrt(3) / REACH)
    correlation: Array = (1 + scaled) * np.exp(-scaled)
    return correlation
