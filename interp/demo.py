"""The first look: an organism answers questions, and its attention is traced, summed up and drawn."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp.analysis import mean_interval, segment_mass
from interp.benchmarks import load_benchmark
from interp.capture import trace
from interp.plots import attention_over_image, mass_by_layer
from interp.vlm import load_vlm

_BROWSERS = ("google-chrome", "chromium", "chromium-browser", "chrome", "google-chrome-stable")


@dataclass(frozen=True)
class Demo:
    """What a demo run found: the trace, accuracies as (label, mean, lower, upper, n), mass (layer,), and the files it wrote."""

    trace: xr.Dataset
    accuracy: list[tuple[str, float, float, float, int]]
    mass: xr.DataArray
    files: list[Path]
    notes: list[str]


def run_demo(model: str, n: int, out: str | Path, *, progress: bool | None = None) -> Demo:
    """Ask `model` the first `n` test questions of `digits`, and write two figures into `out`.

    Raises
    ------
    InterpError
        The model or the number of samples is not usable.
    """
    vlm = load_vlm(model)
    bench = load_benchmark("digits", split="test", limit=n)
    ds = trace(vlm, bench, progress=progress)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    mass = segment_mass(ds, "image").assign_attrs(ds.attrs)
    shown = _clearest(ds)
    figures = {
        "attention_over_image": attention_over_image(ds.isel(sample=shown), bench[shown].open_images()[0], _layers(mass)),
        "image_mass_by_layer": mass_by_layer(mass, "image"),
    }
    files, notes = [], []
    for name, figure in figures.items():
        files.append(folder / f"{name}.html")
        figure.write_html(files[-1], include_plotlyjs="directory")
    if any(shutil.which(browser) for browser in _BROWSERS):
        try:
            files += _write_png(figures, folder)
        except (RuntimeError, ValueError, OSError) as error:  # a browser that is there but cannot start
            notes.append(f"PNG files could not be written ({str(error).splitlines()[0]}); the HTML files are complete.")
    else:
        notes.append("No Chrome or Chromium was found, so the figures are HTML only; install one for PNG files.")
    return Demo(ds, list(_accuracy(ds)), mass.mean(["sample", "head"]), files, notes)


def _accuracy(ds: xr.Dataset) -> Iterator[tuple[str, float, float, float, int]]:
    """Strict exact match by kind of question, with 95 % bootstrap intervals over scenes."""
    absent = ds["knob_absent"].values
    arm = ds["knob_arm"].values.astype(object)
    groups = {
        "answerable": ~absent,
        "plain": ds["knob_kind"].values == "plain",
        "by relation": ds["knob_kind"].values == "relation",
        **{f"prior {name}": arm == name for name in ("congruent", "neutral", "conflict")},
        "absent card": absent,
    }
    for label, keep in groups.items():
        if keep.any():
            part = ds.isel(sample=np.flatnonzero(keep))
            result = mean_interval(part["exact_match"], part["image_id"])
            lower, upper = (float(bound) for bound in result["interval"])
            yield label, float(result["mean"]), lower, upper, int(result["n"])


def _layers(mass: xr.DataArray) -> list[int]:
    """First, last, middle, and the layer with the most image mass."""
    layers = mass["layer"].values
    most = int(mass.mean(["sample", "head"]).argmax())
    return sorted({int(layers[k]) for k in (0, most, len(layers) // 2, -1)})


def _clearest(ds: xr.Dataset) -> int:
    """The first question by relation that was answered correctly, else the first correct one, else the first."""
    correct = (ds["exact_match"].values == 1) & ~ds["knob_absent"].values
    related = correct & (ds["knob_kind"].values == "relation")
    return next((int(np.flatnonzero(each)[0]) for each in (related, correct) if each.any()), 0)


def _write_png(figures: dict[str, go.Figure], folder: Path) -> list[Path]:
    written = []
    for name, figure in figures.items():
        written.append(folder / f"{name}.png")
        figure.write_image(written[-1], scale=2)
    return written
