"""The whole path on a model that ships with the package: layers profiled on one split, everything else judged on another."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import plotly.graph_objects as go
import xarray as xr
from rich.table import Table

from interp import plots, tables
from interp.analysis import Profile, profile_layers
from interp.benchmarks import load_benchmark
from interp.benchmarks.benchmark import Benchmark
from interp.capture import trace
from interp.capture.probing import probed
from interp.findings import (
    Compared,
    Findings,
    analyse,
    compare_methods,
    draw,
    draw_methods,
    mended_sample,
    typical_sample,
    write_methods,
    write_tables,
)
from interp.interventions import evidence_map, highlight
from interp.loading import load_vlm
from interp.methods import evaluate
from interp.settings import METHODS, TraceSettings

_BATCH = 32
_CHOICE = (
    "layer_maps shows the correct answer whose profiled map has the median AUROC, before_after the first wrong answer that vea mends "
    "(where there is none, a correct one)."
)


@dataclass(frozen=True)
class Demo:
    """What a demo run found, and the files it wrote."""

    findings: Findings
    compared: Compared
    answers: xr.Dataset
    tables: list[Table]
    files: list[Path]
    notes: list[str]


def run_demo(model: str, n: int, out: str | Path, *, n_profile: int = 200, n_train: int = 1500, progress: bool | None = None) -> Demo:
    """Profile, trace, disconnect, methods and figures on the first `n` test questions of `digits`, into folder `out`.

    An interrupted run is taken up again. Layers are fitted on `n_profile` samples of the split `profile`, the probe on `n_train` of the
    split `train`.

    Raises
    ------
    InterpError
        The model or the number of samples is not usable, or `out` holds a run with other settings.
    """
    vlm = load_vlm(model)
    bench = load_benchmark("digits", split="test", limit=n)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)

    again = shlex.join(["interp", "demo", "--model", model, "--limit", str(n), "--out", str(out)])

    def traced(split: Literal["profile", "test"], asked: Benchmark) -> xr.Dataset:
        store = folder / f"{split}.zarr"
        settings = TraceSettings(model=model, benchmark="digits", split=split, limit=len(asked), batch_size=_BATCH, out=store)
        kept = settings.model_dump(mode="json")
        return trace(vlm, asked, batch_size=_BATCH, store=store, settings=kept, resume_command=again, progress=progress)

    profile = profile_layers(traced("profile", load_benchmark("digits", split="profile", limit=n_profile)))
    profile.save(folder / "profile.json")
    ds = traced("test", bench)

    training = load_benchmark("digits", split="train", limit=n_train)
    found = analyse(ds, profile, probed(vlm, training, bench, batch_size=_BATCH, progress=progress))
    store = folder / "answers.zarr"
    answers = evaluate(vlm, bench, METHODS, profile, batch_size=_BATCH, store=store, resume_command=again, progress=progress)
    compared = compare_methods(answers)

    figures = draw(found) | draw_methods(compared) | _pictures(bench, ds, answers, profile)
    drawn, notes = plots.save(figures, folder)
    stores = [folder / name for name in ("profile.zarr", "profile.json", "test.zarr", "answers.zarr")]
    files = [*stores, *write_tables(found, folder), *write_methods(compared, folder), *drawn]
    printed = [tables.profile_table(profile), *tables.analysis_tables(found), *tables.method_tables(compared)]
    return Demo(found, compared, answers, printed, files, [*found.notes, *notes, _CHOICE])


def _pictures(bench: Benchmark, ds: xr.Dataset, answers: xr.Dataset, profile: Profile) -> dict[str, go.Figure]:
    """Layer by layer on one question, and one question before and after VEA."""
    shown, mended = typical_sample(answers), mended_sample(answers)
    base, vea = (answers.sel({"method": name}) for name in ("base", "vea"))
    picture = bench[mended].open_images()[0]
    sample = ds.isel(sample=mended).compute()
    seen = evidence_map(sample, profile)
    highlighted = highlight(picture, seen)
    before, after = (str(each["prediction"].isel(sample=mended).item()) for each in (base, vea))
    return {
        "layer_maps": plots.layer_maps(ds.isel(sample=shown).compute(), bench[shown].open_images()[0]),
        "before_after": plots.before_after(sample, picture, seen, highlighted, before, after),
    }
