"""Which evidence could have been read: a probe fitted on some scenes and applied to others, straight from a model."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from interp.analysis import fit_probe, readable
from interp.benchmarks.sample import Sample
from interp.capture.features import token_features
from interp.errors import BenchmarkError
from interp.vlm import VLM


def probed(
    vlm: VLM, training: Sequence[Sample], bench: Sequence[Sample], *, batch_size: int = 8, progress: bool | None = None
) -> xr.Dataset:
    """What a probe fitted on the evidence of `training` reads off the evidence of `bench`; see `interp.analysis.readable`.

    Training samples whose knobs name a prior digit are left out: where a card's colour foretells its digit, a probe would learn the
    colour.

    Raises
    ------
    BenchmarkError
        No training sample is left.
    InterpError
        The probe cannot be fitted, or has seen some of the pictures it would judge.
    """
    fair = [sample for sample in training if sample.knobs.get("prior_digit", -1) == -1]
    if not fair:
        raise BenchmarkError("No training sample is free of a prior, so a probe would learn the prior; give other training samples.")
    probe = fit_probe(token_features(vlm, fair, batch_size=batch_size, progress=progress), roles=("evidence",))
    return readable(probe, token_features(vlm, bench, batch_size=batch_size, progress=progress))
