"""Was it there? Probes and logit lens by layer, and every wrong answer in one class."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

import interp
from experiments.causal_study.material import Material, cell
from interp import circuits, plots
from interp.analysis import fates, probe_layers
from interp.benchmarks import load_benchmark
from interp.findings import mean_of, write_csv


def there(material: Material, benchmark: str, n_train: int) -> tuple[dict[str, go.Figure], list[str]]:
    """Tables, figures and sentences."""
    m = material
    training = load_benchmark(benchmark, split="train", limit=n_train)
    fair = [sample for sample in training if sample.knobs.get("prior_digit", -1) == -1]
    probes = probe_layers(
        interp.token_features(m.vlm, fair, batch_size=m.batch_size, layers=True),
        interp.token_features(m.vlm, m.bench, batch_size=m.batch_size, layers=True),
    )
    table = probes[["cv_accuracy", "cv_control", "selectivity", "accuracy", "accuracy_interval", "control_accuracy"]]
    write_csv(table, m.out / "probes.csv")
    lens = circuits.lens(m.vlm, m.bench, batch_size=m.batch_size)
    ranks = mean_of((lens["reference_rank"] == 0).astype(float).assign_attrs(long_name="reference's token comes first", units="1"), lens)
    write_csv(ranks, m.out / "lens.csv")
    by = "knob_arm" if "knob_arm" in m.ds.coords else None
    result = fates(m.ds, m.profile, probes, by=by)
    write_csv(result[["share", "interval", "count"]], m.out / "fates.csv")
    nulls = [str(null) for null, n in zip(result["null"].values, result["n"].sel(group="all").values, strict=True) if n]
    figures = {f"fates_{null}": plots.fate_shares(result, null) for null in nulls}
    best = {site: int(probes["best_layer"].sel(site=site)) for site in ("evidence", "last")}
    at = {site: probes.sel(site=site, layer=best[site]) for site in best}
    read = "; ".join(
        f"{site} tokens, {best[site]} layers passed: {float(at[site]['accuracy']):.2f} "
        f"[{', '.join(f'{v:.2f}' for v in at[site]['accuracy_interval'].values)}], distractors {float(at[site]['control_accuracy']):.2f}, "
        f"selectivity {float(at[site]['selectivity']):.2f}"
        for site in best
    )
    sentences = [
        f"**Where the answer can be read** (probes fitted on {len(fair)} training scenes without a prior): {read}. By the logit lens the "
        f"reference's token comes first after the last layer in {cell(ranks.isel(layer=-1))} and after the middle one in "
        f"{cell(ranks.isel(layer=m.vlm.n_layers // 2 - 1))} of the samples."
    ]
    if not nulls:
        sentences.append("**Wrong answers by class**: there is none that has a class.")
    for null in nulls:
        whole = result.sel(null=null, group="all")
        parts = []
        for fate in result["fate"].values:
            low, high = whole["interval"].sel(fate=fate).values
            parts.append(f"{fate} {float(whole['share'].sel(fate=fate)):.2f} [{low:.2f}, {high:.2f}]")
        chance = ", ".join(
            f"{step!s} {float(v):.2f}" for step, v in zip(result["step"].values, whole["expected"].values, strict=True) if np.isfinite(v)
        )
        sentences.append(
            f"**Wrong answers by class** (seen against {null} boxes, n = {int(whole['n'])}): {'; '.join(parts)}. "
            f"Chance passes the steps at: {chance}."
        )
    return figures, sentences
