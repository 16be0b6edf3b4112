"""What all parts of the causal study share: the model, its samples, a trace, a profile and a reference set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import interp
from interp.analysis import Profile
from interp.interventions import HeadReference, head_reference


@dataclass(frozen=True)
class Material:
    """Model, samples and what is known of them before any intervention."""

    vlm: interp.VLM
    bench: Sequence[interp.Sample]
    ds: xr.Dataset
    profile: Profile
    reference: HeadReference
    batch_size: int
    out: Path

    @property
    def wrong(self) -> int:
        """Wrong answers to questions that have one."""
        absent = self.ds["visibility"].values.astype(object) == "none"
        return int(((self.ds["exact_match"].values == 0) & ~absent).sum())


def prepare(model: str, benchmark: str, limit: int, n_reference: int, batch_size: int, out: Path) -> Material:
    """Traces of the splits `profile` and `test` (taken up again where they exist), the profiled layers, and the reference set."""
    out.mkdir(parents=True, exist_ok=True)
    vlm = interp.load_vlm(model)
    fitted = interp.load_benchmark(benchmark, split="profile", limit=200)
    profile = interp.profile_layers(interp.trace(vlm, fitted, batch_size=batch_size, store=out / "profile.zarr"))
    bench = interp.load_benchmark(benchmark, split="test", limit=limit)
    ds = interp.trace(vlm, bench, batch_size=batch_size, store=out / "test.zarr").load()
    reference = head_reference(vlm, fitted[:n_reference], name=f"{benchmark} profile, first {n_reference}")
    return Material(vlm, bench, ds, profile, reference, batch_size, out)


def cell(one: xr.Dataset, digits: int = 2) -> str:
    """A mean with its interval, in words."""
    low, high = (float(one["interval"].sel(ci_bound=bound)) for bound in ("lower", "upper"))
    return f"{float(one['mean']):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Rows of a table of one's own."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: ("row", np.array([row.get(name, "") for row in rows], dtype=object)) for name in names}
    xr.Dataset(columns).to_dataframe().to_csv(path, index=False, lineterminator="\n")
