"""The whole path on a model that ships with the package: layers profiled on one split, everything else judged on another.

Or on several models one after the other, and their numbers side by side.
"""

from __future__ import annotations

import gc
import json
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

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
_OTHER_ORDER = "question-first"  # a run asks pictures first
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
    beside
        Further columns of the table as Markdown, of `other_order`.
    failed
        By model that could not be run, the reason.
    """

    table: xr.Dataset
    sentences: list[str]
    seconds: dict[str, float]
    files: list[Path]
    notes: list[str]
    beside: dict[str, dict[str, str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def markdown(self) -> str:
        """The table as Markdown, with what the models' cards say beside it."""
        return markdown(self.table, self.beside)

    def refuse_failed(self) -> None:
        """To be called when all else is done.

        Raises
        ------
        InterpError
            A model could not be run.
        """
        if self.failed:
            raise InterpError(_could_not(self.failed))


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

    One model is in memory at a time. An interrupted run is taken up again by the same call. A model that cannot be run is left out and
    named in the notes and in `SideBySide.failed`; the others go on.

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
        No model is given, two would be written into the same folder, or none of them can be run: it is not usable, or `out` holds a run
        with other settings.
    """
    names = list(models) if models is not None else shipped()
    folders = {name: Path(out) / Path(name).resolve().name for name in names}
    if not names:
        raise InterpError("No model was given to run; give one or more, or install the package again for those that ship with it.")
    if len(set(folders.values())) < len(names):
        raise InterpError(f"Two of the models {', '.join(names)} would be written into the same folder; give models with different names.")
    found, seconds, failed, notes = {}, {}, {}, []
    for k, (name, folder) in enumerate(folders.items(), start=1):
        report(f"{name} ({k} of {len(names)})")
        watch = _Stopwatch(folder / "seconds.json")
        try:
            done = run_demo(
                name,
                n,
                folder,
                n_profile=n_profile,
                n_train=n_train,
                resume_command=resume_command,
                after_step=watch.keep,
                progress=progress,
            )
            watch.keep(finished=True)
        except InterpError as error:
            failed[name] = str(error)
            notes.append(f"{name}: {error}")
        else:
            found[name], seconds[name] = (done.findings, done.compared), watch.seconds
            notes += [f"{name}: {note}" for note in done.findings.notes]
        finally:
            watch.keep()
        gc.collect()  # a traced model refers to itself in circles, so leaving the function does not free it
    if not found:
        raise InterpError(_could_not(failed))
    table, beside = across(found), other_order(found)
    said = sentences(table)
    page = Path(out) / "across_models.md"
    page.write_text("\n".join([markdown(table, beside), "", *(f"- {sentence}" for sentence in said)]) + "\n", encoding="utf-8")
    drawn, missing = plots.save({"across_models": plots.across_models(table)}, out)
    written = [*(folders[name] for name in found), write_csv(table, Path(out) / "across_models.csv"), page, *drawn]
    return SideBySide(table, said, seconds, written, [*notes, *missing], beside, failed)


def other_order(models: Iterable[str]) -> dict[str, dict[str, str]]:
    """What the models' own cards say of the prompt order that a run does not ask: by heading, of each model with a card the text."""
    parts: dict[str, dict[str, str]] = {"exact match": {}, "AUROC of the profiled map": {}}
    for model in models:
        folder = files("interp.organisms") / model.removeprefix("demo/") if model.startswith("demo/") else Path(model)
        path = folder / "card.json"
        card = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        orders = next((each["orders"] for each in card.get("assessments", []) if each["split"] == "test"), {})
        if _OTHER_ORDER not in orders:
            continue
        told = orders[_OTHER_ORDER]
        parts["exact match"][model] = _told(told["answers"]["answerable"])
        parts["AUROC of the profiled map"][model] = "<br>".join(
            f"{group} {_told(told['grounding'][group]['auroc of profiled map'])}" for group in ("correct", "wrong")
        )
    return {f"{name}, {_OTHER_ORDER} (model card)": texts for name, texts in parts.items()}


def _told(figure: dict[str, Any]) -> str:
    """A number of a card with its interval and n, as the table writes its own."""
    if figure["mean"] is None:
        return "none"
    bounds = "no interval" if figure["lower"] is None else f"{figure['lower']:.2f}, {figure['upper']:.2f}"
    return f"{figure['mean']:.2f} [{bounds}], n = {figure['n']}"


def _could_not(failed: dict[str, str]) -> str:
    alike: dict[str, list[str]] = {}
    for name, reason in failed.items():
        alike.setdefault(reason, []).append(name)
    told = "; ".join(f"{', '.join(names)} ({reason.rstrip('.')})" for reason, names in alike.items())
    return f"Could not be run: {told}; see to that and give the same command again, which keeps what is finished."


class _Stopwatch:
    """Seconds of all sittings of a run together, kept in a file until the run is finished; reading it again then costs nothing more.

    A killed process comes to no end at which it could write, so the time is to be kept after every step.
    """

    def __init__(self, path: Path) -> None:
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"seconds": 0.0, "finished": False}
        self.seconds: float = known["seconds"]
        self.finished: bool = known["finished"]
        self._path, self._before, self._start = path, self.seconds, time.perf_counter()

    def keep(self, *, finished: bool = False) -> None:
        """Write the time so far."""
        if self.finished:
            return
        self.seconds, self.finished = self._before + time.perf_counter() - self._start, finished
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")  # a process killed while it writes must leave a file that can be read
        part.write_text(json.dumps({"seconds": self.seconds, "finished": finished}) + "\n", encoding="utf-8")
        part.replace(self._path)


def run_demo(
    model: str,
    n: int,
    out: str | Path,
    *,
    n_profile: int = 200,
    n_train: int = 1500,
    resume_command: str | None = None,
    after_step: Callable[[], None] = lambda: None,
    progress: bool | None = None,
) -> Demo:
    """Profile, trace, disconnect, methods and figures on the first `n` test questions of `digits`, into folder `out`.

    An interrupted run is taken up again. Layers are fitted on `n_profile` samples of the split `profile`, the probe on `n_train` of the
    split `train`. `resume_command` is what a user types to take it up, by default `interp demo` with this model. `after_step` is called
    when the layers are profiled, the test split is traced, the probe is read, and the methods have answered.

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
    after_step()
    ds = traced("test", bench)
    after_step()

    training = load_benchmark("digits", split="train", limit=n_train)
    found = analyse(ds, profile, probed(vlm, training, bench, batch_size=_BATCH, progress=progress))
    after_step()
    store = folder / "answers.zarr"
    answers = evaluate(vlm, bench, METHODS, profile, batch_size=_BATCH, store=store, resume_command=again, progress=progress)
    after_step()
    compared = compare_methods(answers)

    figures = draw(found) | draw_methods(compared) | _pictures(bench, ds, answers, profile)
    drawn, notes = plots.save(figures, folder)
    stores = [folder / name for name in ("profile.zarr", "profile.json", "test.zarr", "answers.zarr")]
    written = [*stores, *write_tables(found, folder), *write_methods(compared, folder), *drawn]
    printed = [tables.profile_table(profile), *tables.analysis_tables(found), *tables.method_tables(compared)]
    return Demo(found, compared, answers, printed, written, [*found.notes, *notes, _CHOICE])


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
