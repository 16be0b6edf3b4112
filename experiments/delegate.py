"""One model attributes, another answers: VEA by a delegate's map beside VEA by the answering model's own.

    python -m experiments.delegate --attribute demo/llava --answer demo/qwen2.5-vl --limit 500 --out results/delegate

Both models are profiled on the benchmark's split `profile`; the attributing one is traced on `test`, and the answering one answers
`test` twice: by its own map, and by the delegate's. Writes into the folder, beside the stores that let a killed run go on:
    methods.csv, methods_against_{base,inst}.csv    exact match of every method, and paired differences
    pairs.csv               delegate's map against the own one, and each against its own shifted map
    maps.csv                AUROC of either map on the evidence, and of the delegate's less the own
    methods.html, .png      the same as a figure (PNG where Chrome or Chromium is found)
    delegate.md             what was run, in words, and the table
    provenance.json         models, revisions, prompt orders, layers, settings and versions of both evaluations
Intervals are 95 % bootstrap over pictures. Tests are paired; several questions may be about one picture, so the p-values to read are
those that flip the signs of whole pictures (p_permutation), adjusted (Holm) within each methods_against_*.csv, but not in pairs.csv.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import cyclopts
import numpy as np
import xarray as xr
from rich.console import Console

import interp
from interp.analysis import Profile, compare, mean_interval
from interp.findings import compare_methods, draw_methods, write_methods

Order = Literal["image-first", "question-first"]

METHODS = ("base", "inst", "vea", "vea-shifted")
BY = " by delegate"
PAIRS = (("vea" + BY, "vea"), ("vea" + BY, "vea-shifted" + BY), ("vea", "vea-shifted"))

SAME = (
    "Both are the same weights; only the prompt order may differ between them. So this shows the path on trained weights, and no transfer "
    "between two models; for that let two of different families be the pair."
)
NOTE = "95 % bootstrap intervals over pictures; p-values from flipping the signs of whole pictures, not adjusted for one another."

app = cyclopts.App(name="delegate", help=__doc__)
_out = Console(soft_wrap=True)


def profiled(vlm: interp.VLM, benchmark: str, limit: int, batch_size: int, store: Path) -> Profile:
    """The visual-grounding layers of a model, fitted on the split `profile`."""
    bench = interp.load_benchmark(benchmark, split="profile", limit=limit)
    return interp.profile_layers(interp.trace(vlm, bench, answers=False, batch_size=batch_size, store=store))


def side_by_side(own: xr.Dataset, delegated: xr.Dataset) -> xr.Dataset:
    """`exact_match` (method, sample) of both evaluations; what the map decides appears twice, `base` and `inst` once."""
    guided = [name for name in METHODS if name.startswith("vea")]
    theirs = delegated["exact_match"].sel({"method": guided}).values
    scores = np.concatenate([own["exact_match"].sel({"method": list(METHODS)}).values, theirs])
    return xr.Dataset(
        {"exact_match": (("method", "sample"), scores)},
        coords={"method": [*METHODS, *(name + BY for name in guided)], "image_id": ("sample", own["image_id"].values.astype(object))},
        attrs={**delegated.attrs, "model": f"{_asked(delegated, '')}, delegate {_asked(delegated, 'attribution_')}"},
    )


def paired(answers: xr.Dataset) -> xr.Dataset:
    """The comparisons `PAIRS`, each by itself, over `pair`."""
    made = [compare(answers.sel({"method": [against, name]}), against).isel(method=0, drop=True) for name, against in PAIRS]
    return xr.concat(made, dim=xr.DataArray([f"{name} less {against}" for name, against in PAIRS], dims="pair", name="pair"))


def map_quality(own: xr.Dataset, delegated: xr.Dataset) -> xr.Dataset:
    """Mean AUROC of either map on the evidence, and of their difference per sample, over `map`."""
    both = np.stack([own["profiled_auroc"].values, delegated["profiled_auroc"].values])
    rows = xr.DataArray(
        [*both, both[1] - both[0]], dims=("map", "sample"), coords={"map": ["own", "delegate", "delegate less own"]}, name="auroc"
    )
    return mean_interval(rows, xr.DataArray(own["image_id"].values.astype(object), dims="sample", name="image_id"))


def described(delegated: xr.Dataset, found: xr.Dataset, pairs: xr.Dataset, quality: xr.Dataset) -> str:
    """What was run and found, as Markdown."""
    attrs = delegated.attrs
    theirs, mine = _asked(delegated, "attribution_"), _asked(delegated, "")
    lines = [
        f"Attributing: {theirs}. Answering: {mine}. Benchmark {attrs['benchmark']}, split {attrs['split']}, n = {found['n'].max():d}.",
        "",
    ]
    if all(attrs["attribution_" + name] == attrs[name] for name in ("model", "revision")):
        lines += [SAME, ""]
    lines += ["| method | exact match |", "|---|---|"]
    lines += [f"| {name} | {_cell(found.sel({'method': name}), 'mean')} |" for name in found["method"].values]
    lines += ["", "| paired difference in exact match | | wins, losses | p |", "|---|---|---|---|"]
    for name in pairs["pair"].values:
        one = pairs.sel(pair=name)
        lines.append(f"| {name} | {_cell(one, 'difference')} | {one['wins']:d}, {one['losses']:d} | {one['p_permutation']:.3g} |")
    lines += ["", "| AUROC of the map on the evidence | |", "|---|---|"]
    lines += [f"| {name} | {_cell(quality.sel(map=name), 'mean')}, n = {quality['n'].sel(map=name):d} |" for name in quality["map"].values]
    return "\n".join([*lines, "", NOTE]) + "\n"


def _asked(delegated: xr.Dataset, whose: str) -> str:
    return f"{delegated.attrs[whose + 'model']} ({delegated.attrs[whose + 'prompt_order']})"


def _cell(one: xr.Dataset, name: str) -> str:
    lower, upper = one["interval"].values.tolist()
    return f"{float(one[name]):.3f} [{lower:.3f}, {upper:.3f}]"


def _write_csv(table: xr.Dataset, path: Path) -> Path:
    bounds = {bound: table["interval"].sel(ci_bound=bound, drop=True) for bound in ("lower", "upper")}
    table.drop_dims("ci_bound").assign(bounds).to_dataframe().to_csv(path, lineterminator="\n")
    return path


@app.default
def main(
    *,
    attribute: str = "demo/llava",
    answer: str = "demo/qwen2.5-vl",
    attribute_order: Order = "image-first",
    answer_order: Order = "image-first",
    benchmark: str = "digits",
    limit: int = 500,
    profile_limit: int = 200,
    batch_size: int = 32,
    out: Path = Path("results/delegate"),
) -> None:
    """Run both evaluations and write the tables and the figure.

    Parameters
    ----------
    attribute, answer
        The model that says where to look and the model that answers: demo/NAME, a local directory, or a Hugging Face id.
    attribute_order, answer_order
        Their prompt orders.
    benchmark
        A benchmark with the splits `profile` and `test`.
    limit, profile_limit
        Samples of `test` and of `profile`.
    batch_size
        Samples per forward pass.
    out
        Folder to write; the same command takes an interrupted run up again.
    """
    out.mkdir(parents=True, exist_ok=True)
    other, vlm = interp.load_vlm(attribute, prompt_order=attribute_order), interp.load_vlm(answer, prompt_order=answer_order)
    theirs = profiled(other, benchmark, profile_limit, batch_size, out / "profile-attributing.zarr")
    mine = profiled(vlm, benchmark, profile_limit, batch_size, out / "profile-answering.zarr")

    bench = interp.load_benchmark(benchmark, split="test", limit=limit)
    seen = interp.trace(other, bench, answers=False, batch_size=batch_size, store=out / "attribution.zarr")
    own = interp.evaluate(vlm, bench, METHODS, mine, batch_size=batch_size, store=out / "own.zarr")
    delegated = interp.evaluate(vlm, bench, METHODS, theirs, attribution=seen, batch_size=batch_size, store=out / "delegated.zarr")

    answers = side_by_side(own, delegated)
    compared, pairs, quality = compare_methods(answers), paired(answers), map_quality(own, delegated)
    figures, notes = interp.plots.save(draw_methods(compared), out)
    files = [*write_methods(compared, out), _write_csv(pairs, out / "pairs.csv"), _write_csv(quality, out / "maps.csv"), *figures]
    text = described(delegated, compared.scores, pairs, quality)
    files += [_write(out / "delegate.md", text), _write(out / "provenance.json", _provenance({"own": own, "delegated": delegated}))]
    _out.print(text, highlight=False, markup=False)
    for line in [*notes, *(f"wrote {path}" for path in files)]:
        _out.print(line, highlight=False, markup=False)


def _provenance(evaluations: dict[str, xr.Dataset]) -> str:
    kept: dict[str, dict[str, Any]] = {name: dict(answers.attrs) for name, answers in evaluations.items()}
    return json.dumps(kept, indent=1) + "\n"


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    app()
