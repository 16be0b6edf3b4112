"""The whole path on a model that ships with the package: layers profiled on one split, everything else judged on another.

Or on several models one after the other, and their numbers side by side.
"""

from __future__ import annotations

import gc
import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import plotly.graph_objects as go
import xarray as xr
from rich.table import Table

from interp import plots, tables
from interp.across import across, markdown, sentences
from interp.analysis import Profile, profile_layers
from interp.benchmarks import load_benchmark
from interp.benchmarks.benchmark import Benchmark
from interp.capture import trace
from interp.capture.probing import probed
from interp.errors import InterpError
from interp.findings import (
    Compared,
    Findings,
    analyse,
    compare_methods,
    draw,
    draw_methods,
    mended_sample,
    typical_sample,
    write_csv,
    write_methods,
    write_tables,
)
from interp.interventions import evidence_map, highlight
from interp.loading import load_vlm, shipped
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


@dataclass(frozen=True)
class SideBySide:
    """What demo runs of several models found.

    Parameters
    ----------
    table
        Of `interp.across.across`.
    sentences
        The same in words, for each model.
    seconds
        Each model's time, over all sittings of its run.
    files, notes
        Folders and files written, and why a part is missing.
    """

    table: xr.Dataset
    sentences: list[str]
    seconds: dict[str, float]
    files: list[Path]
    notes: list[str]

    def markdown(self, columns: Mapping[str, Mapping[str, str]] | None = None) -> str:
        """The table as Markdown, with further columns by heading, of each the text by model."""
        return markdown(self.table, columns)


def run_all(
    models: Sequence[str] | None,
    n: int,
    out: str | Path,
    *,
    n_profile: int = 200,
    n_train: int = 1500,
    resume_command: str | None = None,
    report: Callable[[str], None] = lambda _: None,
    progress: bool | None = None,
) -> SideBySide:
    """`run_demo` on each model, into its own folder of `out`, then all of them in one table (CSV, Markdown) and one figure.

    One model is in memory at a time. An interrupted run is taken up again by the same call.

    Parameters
    ----------
    models
        Names or folders; None for all that ship with the package.
    n, n_profile, n_train
        As for `run_demo`.
    resume_command
        What a user types to take an interrupted run up again.
    report
        Told in a sentence what is being done.

    Raises
    ------
    InterpError
        No model is given, two would be written into the same folder, one is not usable, or `out` holds a run with other settings.
    """
    names = list(models) if models is not None else shipped()
    folders = {name: Path(out) / Path(name).resolve().name for name in names}
    if not names:
        raise InterpError("No model was given to run; give one or more, or install the package again for those that ship with it.")
    if len(set(folders.values())) < len(names):
        raise InterpError(f"Two of the models {', '.join(names)} would be written into the same folder; give models with different names.")
    found, seconds, notes = {}, {}, []
    for k, (name, folder) in enumerate(folders.items(), start=1):
        report(f"{name} ({k} of {len(names)})")
        with _timed(folder / "seconds.json") as spent:
            done = run_demo(name, n, folder, n_profile=n_profile, n_train=n_train, resume_command=resume_command, progress=progress)
        found[name], seconds[name] = (done.findings, done.compared), spent["seconds"]
        notes += [f"{name}: {note}" for note in done.findings.notes]
        gc.collect()  # a traced model refers to itself in circles, so leaving the function does not free it
    table = across(found)
    said = sentences(table)
    page = Path(out) / "across_models.md"
    page.write_text("\n".join([markdown(table), "", *(f"- {sentence}" for sentence in said)]) + "\n", encoding="utf-8")
    drawn, missing = plots.save({"across_models": plots.across_models(table)}, out)
    files = [*folders.values(), write_csv(table, Path(out) / "across_models.csv"), page, *drawn]
    return SideBySide(table, said, seconds, files, [*notes, *missing])


@contextmanager
def _timed(path: Path) -> Iterator[dict[str, float]]:
    """`seconds` of all sittings of a run together, kept in a file until the run is `finished`; reading it again then costs nothing more."""
    spent = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"seconds": 0.0, "finished": False}
    running, before, start = not spent["finished"], spent["seconds"], time.perf_counter()
    try:
        yield spent
        spent["finished"] = True
    finally:
        if running:
            spent["seconds"] = before + time.perf_counter() - start
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(spent) + "\n", encoding="utf-8")


def run_demo(
    model: str,
    n: int,
    out: str | Path,
    *,
    n_profile: int = 200,
    n_train: int = 1500,
    resume_command: str | None = None,
    progress: bool | None = None,
) -> Demo:
    """Profile, trace, disconnect, methods and figures on the first `n` test questions of `digits`, into folder `out`.

    An interrupted run is taken up again. Layers are fitted on `n_profile` samples of the split `profile`, the probe on `n_train` of the
    split `train`. `resume_command` is what a user types to take it up, by default `interp demo` with this model.

    Raises
    ------
    InterpError
        The model or the number of samples is not usable, or `out` holds a run with other settings.
    """
    vlm = load_vlm(model)
    bench = load_benchmark("digits", split="test", limit=n)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)

    again = resume_command or shlex.join(["interp", "demo", "--model", model, "--limit", str(n), "--out", str(out)])

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
