"""The authors' code fault by fault: whether `variant="authors"` is what it does, and what every correction changes.

    python -m experiments.compare_authors --model demo/llava --limit 300 --annotations VISUAL_COT --out results/compare_authors

The reference side (`experiments.authors`: equations, labels, scores) is written from the published equations and the list of faults with
numpy and scipy.ndimage, and shares no code with `interp.interventions`. Layers are profiled on the split `profile`; everything is judged
on `test`. Writes into the folder, beside `answers.zarr`, which lets a killed run go on:
    summary.md              one page: agreement, and a row per fault: what it changes, or why it is not measured
    labels.csv              evidence labels and references on the Visual-CoT annotations (boxes only; no picture is needed)
    maps.csv                maps and highlighted pictures, each fault by itself less the corrected equations
    answers.csv             the same for answers: exact match, and the reference's log-probability in nats
    trace.csv               numbers that a trace is summed up in
    answers.html, .png      answers as a figure (PNG where Chrome or Chromium is found)
Differences are paired; intervals are 95 % bootstrap over pictures; p-values flip the signs of whole pictures, adjusted (Holm) over the
faults of a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cyclopts
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from rich.console import Console

import interp
from experiments.authors import on_answers, on_labels, on_maps, on_trace
from experiments.authors.faults import FAULTS
from interp import plots

app = cyclopts.App(name="compare_authors", help=__doc__)
_out = Console(soft_wrap=True)

_NOTE = (
    "Figures of a model that ships with the package (demo/...) validate the tool and show that an effect can occur; they are no evidence "
    "about released checkpoints. Figures on labels are of the published annotations and need no model."
)


@app.default
def main(
    *,
    model: str = "demo/llava",
    benchmark: str = "digits",
    limit: int = 300,
    profile_limit: int = 200,
    annotations: Path | None = None,
    batch_size: int = 32,
    out: Path = Path("results/compare_authors"),
) -> None:
    """Run every part and write the tables, the figure and the page.

    Parameters
    ----------
    model
        A model that ships with the package, a local directory, or a Hugging Face id; questions must have one picture.
    benchmark
        A benchmark with the splits `profile` and `test`.
    limit, profile_limit
        Samples of `test` and of `profile`.
    annotations
        Folder of Visual-CoT's detection files (*.jsonl), with the benchmark files where `visual-cot` looks for them. Without it the part
        on labels is left out.
    batch_size
        Samples per forward pass.
    out
        Folder to write; the same command takes an interrupted run up again.
    """
    out.mkdir(parents=True, exist_ok=True)
    tables: dict[str, pd.DataFrame] = {}
    if annotations is not None:
        tables["labels"] = on_labels.study(annotations)
    vlm = interp.load_vlm(model)
    fitted = interp.load_benchmark(benchmark, split="profile", limit=profile_limit)
    profile = interp.profile_layers(interp.trace(vlm, fitted, answers=False, batch_size=batch_size))
    bench = interp.load_benchmark(benchmark, split="test", limit=limit)
    ds = interp.trace(vlm, bench, answers=False, batch_size=batch_size)
    judged = interp.profile_layers(ds)
    tables["trace"] = on_trace.study(ds, profile, judged)
    tables["maps"], agreement = on_maps.study(bench, ds, profile, judged)
    answers = on_answers.answer(vlm, bench, profile, judged, _side(vlm), batch_size, out / "answers.zarr").load()
    tables["answers"] = on_answers.study(answers, bench)

    figures, notes = plots.save({"answers": _figure(tables["answers"], answers)}, out)
    for name, table in tables.items():
        table.to_csv(out / f"{name}.csv", index=False, lineterminator="\n")
    page = out / "summary.md"
    page.write_text(_page(tables, agreement, answers, profile.layers, judged.layers), encoding="utf-8")
    for line in [*notes, *(f"wrote {path}" for path in [page, *(out / f"{name}.csv" for name in tables), *figures])]:
        _out.print(line, highlight=False, markup=False)


def _side(vlm: interp.VLM) -> int:
    """The side of the square that the model's processor crops to; LLaVA-1.5's where it crops nothing."""
    found = getattr(vlm.processor.image_processor, "crop_size", None) or {}
    return int(found["height"]) if "height" in found else 336


def _page(
    tables: Mapping[str, pd.DataFrame],
    agreement: on_maps.Agreement,
    answers: xr.Dataset,
    layers: Sequence[int],
    judged: Sequence[int],
) -> str:
    attrs = answers.attrs
    same = (answers["prediction"].sel({"method": "vea"}) == answers["prediction"].sel({"method": "corrected"})).values
    lines = [
        "# The authors' code, fault by fault",
        "",
        f"Model {attrs['model']} ({attrs['revision']}), {attrs['prompt_order']}, benchmark {attrs['benchmark']}, split {attrs['split']}, "
        f"n = {answers.sizes['sample']}; profiled layers {list(layers)}, on the judged samples themselves {list(judged)}. {_NOTE}",
        "",
        f"**Agreement.** Over {agreement.n} pictures the greatest difference from the reference is {agreement.authors} grey level(s) for "
        f'`variant="authors"` (all faults), and {agreement.interp} for `variant="interp"` (none). `vea` of the package and the corrected '
        f"equations answer alike on {same.sum()} of {len(same)} questions.",
        "",
        *_faults(tables),
    ]
    for name, title in _TITLES.items():
        lines += [f"## {title}", ""]
        lines += _markdown(_SHOWN[name](tables[name])) if name in tables else ["Left out: no annotations were given (`--annotations`)."]
        lines.append("")
    return "\n".join([*lines, _INTERVALS]) + "\n"


_INTERVALS = (
    "Intervals: 95 % bootstrap over pictures. p: signs of whole pictures flipped, after Holm over the rows of a table. Each fault stands "
    "by itself, all else corrected; `all of them` is the authors' treatment of a map on the original picture. `constant` strikes only "
    "where a map is constant; `constant, wherever it strikes` dims every picture wholly, less the untouched picture in the same wording. "
    "`rendering` shows the highlighted picture as it comes out of a processor, cropped or squashed, less the highlighted original. "
    "`containment` and `set F1` score the same answers (of `base`) in two ways. Their F1 also reduces words to lemmas by WordNet, which "
    "needs a download; that part is not measured."
)

_TITLES = {
    "labels": "Labels: Visual-CoT annotations",
    "maps": "Maps and highlighted pictures, faulty less corrected",
    "answers": "Answers, faulty less corrected",
    "trace": "Numbers of a trace",
}


def _faults(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    rows = [
        {"": fault.number, "fault": fault.name, "what": fault.what, "measured on": fault.measured or f"not measured: {fault.why}"}
        for fault in FAULTS
    ]
    left_out = "" if "labels" in tables else " Labels were left out of this run: no annotations were given."
    measured = sum(bool(fault.measured) for fault in FAULTS)
    return ["## The faults", "", f"{measured} of {len(FAULTS)} are measured offline.{left_out}", "", *_markdown(pd.DataFrame(rows)), ""]


def _labels(table: pd.DataFrame) -> pd.DataFrame:
    value = [_cell(*row) for row in table[["mean", "lower", "upper"]].values]
    order = list(dict.fromkeys(zip(table["fault"], table["measure"], strict=True)))
    counts = table.groupby("dataset")["n"].agg(["min", "max"])
    several = {name: f"{name}, n = {low}" + (f" to {high}" if high > low else "") for name, low, high in counts.itertuples()}
    wide = table.assign(value=value).pivot(index=["fault", "measure"], columns="dataset", values="value").rename(columns=several)
    return wide.reindex(order).reset_index()


def _maps(table: pd.DataFrame) -> pd.DataFrame:
    def column(name: str) -> list[str]:
        return [_cell(*row) for row in table[[name, f"{name}_lower", f"{name}_upper"]].values]

    return pd.DataFrame(
        {
            "fault": table["fault"],
            "pictures changed": column("changed"),
            "mean difference, grey levels": column("grey_levels"),
            "gain on evidence": column("gain_on_evidence"),
            "AUROC of pixels on evidence": [_cell(*row) for row in table[["auroc_difference", "auroc_lower", "auroc_upper"]].values],
            "p": [_p(value) for value in table["auroc_p_holm_permutation"]],
        }
    )


def _answers(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "fault": table["fault"],
            "corrected": [f"{value:.3f}" for value in table["corrected"]],
            "faulty": [f"{value:.3f}" for value in table["theirs"]],
            "exact match, difference": [_cell(*row) for row in table[["score_difference", "score_lower", "score_upper"]].values],
            "wins, losses": [f"{wins}, {losses}" for wins, losses in table[["score_wins", "score_losses"]].values],
            "p": [_p(value) for value in table["score_p_holm_permutation"]],
            "log-probability, nats": [_cell(*row) for row in table[["logprob_difference", "logprob_lower", "logprob_upper"]].values],
            "p ": [_p(value) for value in table["logprob_p_holm_permutation"]],
        }
    )


def _trace(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "fault": table["fault"],
            "number": table["measure"],
            "corrected": [f"{value:.3f}" for value in table["corrected"]],
            "faulty": [f"{value:.3f}" for value in table["theirs"]],
            "difference": [_cell(*row) for row in table[["difference", "lower", "upper"]].values],
            "n": table["n"],
        }
    )


_SHOWN = {"labels": _labels, "maps": _maps, "answers": _answers, "trace": _trace}


def _markdown(table: pd.DataFrame) -> list[str]:
    rows = [list(map(str, table.columns)), ["---"] * len(table.columns), *([str(v) for v in row] for row in table.values.tolist())]
    return ["| " + " | ".join(row) + " |" for row in rows]


def _cell(mean: float, lower: float, upper: float) -> str:
    if np.isnan(mean):
        return ""
    return f"{mean:.3f}" if np.isnan(lower) else f"{mean:.3f} [{lower:.3f}, {upper:.3f}]"


def _p(value: float) -> str:
    return "" if np.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _figure(table: pd.DataFrame, answers: xr.Dataset) -> go.Figure:
    """Every faulty way's score, and its difference from the corrected one."""

    def drawn(bounds: str, **names: str) -> xr.Dataset:
        columns = {name: ("method", table[column].values) for name, column in names.items()}
        interval = np.array([table[f"{bounds}_{bound}"].values for bound in ("lower", "upper")])
        variable = xr.Variable(("ci_bound", "method"), interval, {"long_name": "95% percentile bootstrap interval over pictures"})
        return xr.Dataset({**columns, "interval": variable}, coords={"method": table["fault"].values.astype(object)})

    scores = drawn("theirs", mean="theirs", n="score_n").assign_attrs(answers.attrs)
    tests = dict.fromkeys(("p_holm", "p_holm_permutation"), "score_p_holm_permutation")
    against = drawn("score", difference="score_difference", n="score_n", **tests).assign_attrs(against="corrected")
    return plots.methods(scores, against.assign(n_images=0 * against["n"]))  # so that the p-values are called what they are


if __name__ == "__main__":
    app()
