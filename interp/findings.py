"""What a trace and a table of answers have to say: their analyses in one go, as labelled arrays, and the figures and files made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from interp import analysis, plots
from interp.analysis import Profile
from interp.analysis.auroc import OverlapRule
from interp.errors import InterpError

T = TypeVar("T")

STRATA = ("card_size", "contrast")  # knobs that make reading hard; where a benchmark has them, tests are repeated within their terciles


@dataclass(frozen=True)
class Findings:
    """Analyses of one trace.

    Parameters
    ----------
    visibility
        What preprocessing leaves of the evidence (`interp.analysis.visibility`).
    shift
        Mean relative attention per token (layer, section) with interval (paper, Fig. 1).
    split
        The same by correctness (paper, Fig. 4).
    heads
        Mean AUROC (layer, head) with interval; None where no sample has evidence.
    measures
        By name, quantities per sample split by correctness: layer means, and of the profiled map where a profile is given.
    stratified
        The same within strata of `STRATA`; empty where the trace has no such knobs.
    profile, disconnect
        The visual-grounding layers, and the table seen x readable x correct, where a profile is given.
    readable
        What a probe read, where it was asked.
    notes
        Why a part is missing, a sentence each.
    """

    visibility: xr.Dataset
    shift: xr.Dataset
    split: xr.Dataset
    heads: xr.Dataset | None
    measures: Mapping[str, xr.Dataset]
    stratified: Mapping[str, xr.Dataset] = field(default_factory=dict)
    profile: Profile | None = None
    disconnect: xr.Dataset | None = None
    readable: xr.Dataset | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compared:
    """Methods side by side: `scores` (method,) with intervals, `against` base and inst, and by the profiled map's AUROC.

    `quality` (bin, method) and `effect` (bin,) of `vea` less `inst` are None without a profile, or without these methods. `answerable` is
    `scores` without the samples that show no answer.
    """

    scores: xr.Dataset
    against: tuple[xr.Dataset, ...]
    quality: xr.Dataset | None = None
    effect: xr.Dataset | None = None
    answerable: xr.Dataset | None = None


def analyse(
    ds: xr.Dataset,
    profile: Profile | None = None,
    readable: xr.Dataset | None = None,
    *,
    correct: str = "exact_match",
    allow_overlap: bool = False,
) -> Findings:
    """Every analysis of a trace that it allows; with a profile also the disconnect. What it does not allow is said in `notes`.

    Raises
    ------
    InterpError
        The trace has no answers, or the profile is not of this model and prompt order or was fitted on these pictures.
    """
    if profile is not None:  # before the work
        profile.check(ds.attrs, ds["image_id"].values, allow_overlap=allow_overlap)
    images = ds["image_id"]
    rule: OverlapRule = profile.rule if profile is not None else "any"
    notes: list[str] = []

    def allowed(make: Callable[[], T]) -> T | None:
        try:
            return make()
        except InterpError as error:
            notes.append(str(error))
            return None

    relative = analysis.rapt(ds, rule=rule)
    by_head = allowed(lambda: analysis.auroc(ds["attention"], ds["coverage"], rule))
    quantities: dict[str, xr.DataArray] = {}
    table = None
    if by_head is not None:
        if profile is not None:
            layers, seen = list(profile.layers), analysis.profiled_map(ds, profile)
            quantities["AUROC of the profiled map"] = analysis.auroc(seen, ds["coverage"], rule)
            quantities["relative attention on evidence"] = _per_sample(relative, "evidence", layers)
            quantities["relative attention off evidence"] = _per_sample(relative, "non-evidence", layers)
            table = allowed(lambda: analysis.disconnect(ds, profile, readable, correct=correct, allow_overlap=allow_overlap, map=seen))
        by_layer = analysis.auroc(ds["attention"].mean("head"), ds["coverage"], rule)
        quantities["AUROC, mean over layers"] = by_layer.mean("layer")
    strata = [knob for knob in STRATA if f"knob_{knob}" in ds.coords]

    def split(within: list[str]) -> dict[str, xr.Dataset]:
        return {name: analysis.by_correctness(values, ds, correct, strata=within) for name, values in quantities.items()}

    return Findings(
        visibility=analysis.visibility(ds),
        shift=analysis.mean_interval(relative, images).assign_attrs(ds.attrs),
        split=analysis.by_correctness(relative, ds, correct),
        heads=analysis.mean_interval(by_head, images).assign_attrs(ds.attrs) if by_head is not None else None,
        measures=split([]),
        stratified=split(strata) if strata else {},
        profile=profile,
        disconnect=table,
        readable=readable,
        notes=tuple(notes),
    )


def compare_methods(answers: xr.Dataset, score: str = "exact_match") -> Compared:
    """Methods of an evaluation: their scores, and paired differences from `base` and from `inst` where those were asked."""
    shown = xr.DataArray(~_absent(answers), dims="sample")
    scores, answerable = (
        analysis.mean_interval(each, answers["image_id"]).assign_attrs(answers.attrs)
        for each in (answers[score], answers[score].where(shown))
    )
    names = [str(name) for name in answers["method"].values]
    others = [name for name in ("base", "inst") if name in names and len(names) > 1]
    against = tuple(analysis.compare(answers, name, score) for name in others)
    quality = effect = None
    if "profiled_auroc" in answers:
        drawn = answers[score].sel({"method": [name for name in ("base", "inst", "vea") if name in names] or names[:1]})
        quality = analysis.by_grounding_quality(drawn, answers["profiled_auroc"], answers["image_id"]).assign_attrs(answers.attrs)
        if {"inst", "vea"} <= set(names):
            # not `sel(method=...)`: that keyword is xarray's own
            gained = answers[score].sel({"method": "vea"}, drop=True) - answers[score].sel({"method": "inst"}, drop=True)
            effect = analysis.by_grounding_quality(gained, answers["profiled_auroc"], answers["image_id"]).assign_attrs(answers.attrs)
            effect["mean"].attrs["long_name"] = "vea less inst"
    return Compared(scores, against, quality, effect, answerable)


def mended_sample(answers: xr.Dataset) -> int:
    """Position of the first answer that `base` gets wrong and `vea` right; without one, of the first right one (see `typical_sample`)."""
    base, vea = (answers["exact_match"].sel({"method": name}).values for name in ("base", "vea"))
    gained = np.flatnonzero((vea > base) & ~_absent(answers))
    right = np.flatnonzero((base == 1) & ~_absent(answers))
    return int([*gained, *right, 0][0])


def typical_sample(answers: xr.Dataset) -> int:
    """Position of the right answer of `base` whose profiled map has the median AUROC; the first sample where there is none.

    Samples that show no answer (`knob_absent`) do not count, here and in `mended_sample`: nothing could be looked at.
    """
    right = (answers["exact_match"].sel({"method": "base"}).values == 1) & ~_absent(answers)
    quality = np.where(right, answers["profiled_auroc"].values, np.nan)
    return int(np.nanargmin(np.abs(quality - np.nanmedian(quality)))) if np.isfinite(quality).any() else 0


def _absent(answers: xr.Dataset) -> NDArray[np.bool_]:
    found = answers["knob_absent"].values if "knob_absent" in answers.variables else np.zeros(answers.sizes["sample"])
    return found.astype(bool)


def draw(found: Findings) -> dict[str, go.Figure]:
    """Figures of a trace, by file name."""
    figures = {"attention_shift": plots.attention_shift(found.shift)}
    if found.heads is not None:
        figures["evidence_by_correctness"] = plots.evidence_by_correctness(found.split)
        figures["head_grounding"] = plots.head_grounding(found.heads, found.profile)
    if found.disconnect is not None:
        figures["disconnect_table"] = plots.disconnect_table(found.disconnect)
    return figures


def draw_methods(compared: Compared) -> dict[str, go.Figure]:
    """Figures of an evaluation, by file name."""
    figures = {"methods": plots.methods(compared.scores, *compared.against)}
    if compared.quality is not None:
        figures["accuracy_by_quality"] = plots.accuracy_by_quality(compared.quality, compared.effect)
    return figures


def write_tables(found: Findings, folder: str | Path) -> list[Path]:
    """The findings as CSV, one row a number, into `folder`."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    parts: dict[str, xr.Dataset] = {
        "visibility": found.visibility,
        "rapt": found.shift,
        "rapt_by_correctness": found.split,
    }
    if found.heads is not None:
        parts |= {"head_auroc": found.heads, "measures_by_correctness": _stacked(found.measures)}
    if found.stratified:
        parts["measures_within_strata"] = _stacked(found.stratified)
    if found.disconnect is not None:
        parts["disconnect"] = found.disconnect[["count", "share", "interval"]]
        parts["disconnect_seen"] = found.disconnect[["seen_share", "seen_interval", "seen_n", "seen_expected", "seen_excess"]]
        parts["disconnect_outcomes"] = found.disconnect[["outcome_share", "outcome_interval", "outcome_expected"]]
    return [write_csv(part, target / f"{name}.csv") for name, part in parts.items()]


def write_methods(compared: Compared, folder: str | Path) -> list[Path]:
    """An evaluation as CSV into `folder`."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    parts = {"methods": compared.scores}
    parts |= {f"methods_against_{each.attrs['against']}": each for each in compared.against}
    parts |= {name: part for name, part in (("quality", compared.quality), ("vea_by_quality", compared.effect)) if part is not None}
    return [write_csv(part, target / f"{name}.csv") for name, part in parts.items()]


def _per_sample(relative: xr.DataArray, section: str, layers: list[int]) -> xr.DataArray:
    return relative.sel(layer=layers).sel(section=section, drop=True).mean("layer")


def _stacked(measures: Mapping[str, xr.Dataset]) -> xr.Dataset:
    names = xr.DataArray(list(measures), dims="measure", name="measure")
    return xr.concat([each.drop_attrs() for each in measures.values()], dim=names)


def mean_of(array: xr.DataArray, source: xr.Dataset) -> xr.Dataset:
    """Mean, interval and n of `array` (sample, ...) over samples, resampled by picture, with the provenance of `source`."""
    plain = array.drop_vars([name for name, coord in array.coords.items() if "sample" in coord.dims])
    found = analysis.mean_interval(plain, xr.DataArray(source["image_id"].values.astype(object), dims="sample", name="image_id"))
    found["mean"].attrs = dict(array.attrs)
    return found.assign_attrs(source.attrs)


def write_csv(part: xr.Dataset, path: Path) -> Path:
    """Intervals become two columns, lower and upper, so that the other numbers are not repeated."""
    flat = part.drop_vars([name for name, variable in part.data_vars.items() if "ci_bound" in variable.dims])
    for name, variable in part.data_vars.items():
        if "ci_bound" in variable.dims:
            for bound in ("lower", "upper"):
                flat[f"{name}_{bound}"] = variable.sel(ci_bound=bound, drop=True)
    frame = flat.drop_vars("ci_bound", errors="ignore").to_dataframe()
    frame.to_csv(path, lineterminator="\n")
    return path
