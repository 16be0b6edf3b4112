"""A finished evaluation, opened again without a model."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from interp.answers import SCORES
from interp.capture.store import open_store
from interp.errors import StoreError

_NEEDED = ("prediction", *SCORES, "reference_logprob", "reference_logprob_mean", "entropy", "seconds", "mean_gain")


def open_answers(path: str | Path) -> xr.Dataset:
    """The dataset (method, sample) that `interp.evaluate` wrote, lazily.

    Raises
    ------
    StoreError
        Nothing is there, it is no evaluation, it is not finished (with how much is done, and how to go on), or it is damaged.
    """
    answers = open_store(path, "answers")["answers"].to_dataset()
    for name in _NEEDED:
        if name not in answers or answers[name].dims != ("method", "sample"):
            raise StoreError(f"Store {str(path)!r} is damaged: {name!r} (method, sample) is missing; evaluate again, to another path.")
    return answers
