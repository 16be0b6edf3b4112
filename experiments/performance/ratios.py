"""The statistic of every speed claim: a ratio of times that were measured side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ratio(mine: Sequence[float], other: Sequence[float], seed: int = 0) -> dict[str, float]:
    """Median of the rounds' ratios of two lists of seconds (round,), and the 95 % bootstrap interval of that median."""
    ratios = np.asarray(mine) / np.asarray(other)
    draws = np.random.default_rng(seed).choice(ratios, (10_000, len(ratios)))
    lower, upper = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return {"median": float(np.median(ratios)), "lower": float(lower), "upper": float(upper)}
