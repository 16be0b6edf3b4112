"""Heads: what each does, writes and looks at; whether those that look right matter; and VEA's gain without them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

import interp
from experiments.causal.material import Material, mean_of, write_rows
from interp import circuits, plots
from interp.analysis import compare, head_measures, head_taxonomy, layer_matched
from interp.findings import write_csv
from interp.interventions import ablate_heads, head_sweep

_DRAWS = 3
_MODE = "mean"


@dataclass(frozen=True)
class Heads:
    """Tables, figures and sentences."""

    taxonomy: xr.Dataset
    figures: dict[str, go.Figure]
    sentences: list[str]
    grounding: NDArray[np.intp]  # (head, 2), best first


def study(material: Material) -> Heads:
    """Sweep, attribution and taxonomy."""
    m = material
    sweep = head_sweep(m.vlm, m.bench, mode=_MODE, positions="generated", reference=m.reference)
    written = circuits.attribute(m.vlm, m.bench, batch_size=m.batch_size)
    overlap = circuits.write_grounding(written)
    direct = written["direct"].assign_attrs(long_name="direct share of the logit difference")
    writes = overlap["write"].assign_attrs(long_name="AUROC of what it writes on the evidence")
    effects = {"delta_logprob": sweep["delta_logprob"], "delta_logit_diff": sweep["delta_logit_diff"], "flip": sweep["flip"].astype(float)}
    found = head_measures(m.ds, interp.sinks(m.vlm, m.bench), {**effects, "direct": direct, "write_grounding": writes})
    found.drop_vars("layer_kind", errors="ignore").to_zarr(m.out / "heads.zarr", mode="w", consolidated=False)
    taxonomy = head_taxonomy(found)
    write_csv(taxonomy.drop_dims(["measure", "other"], errors="ignore"), m.out / "taxonomy.csv")
    write_csv(taxonomy[["rank_correlation", "rank_correlation_interval", "n_heads"]], m.out / "correlations.csv")

    def agreement(one: str, other: str) -> str:
        at = taxonomy.sel(measure=one, other=other)
        low, high = at["rank_correlation_interval"].values
        return f"{float(at['rank_correlation']):.2f} [{low:.2f}, {high:.2f}]"

    attrs = {**m.ds.attrs, "n": m.ds.sizes["sample"]}
    hurt = agreement("grounding", "delta_logprob")
    wrote = agreement("grounding", "direct")
    figures = {
        "head_effects": plots.head_effects(mean_of(sweep["delta_logprob"], sweep), unit="change of log-probability, nats"),
        "look_and_do": plots.look_and_write(taxonomy.assign_attrs(**attrs, spearman=hurt)),
        "look_and_write": plots.look_and_write(taxonomy.assign_attrs(**attrs, spearman=wrote), write="direct"),
    }
    low, high = taxonomy["delta_logprob_interval"].values
    clear = int(((low > 0) | (high < 0)).sum())
    deepest = np.unravel_index(int(np.nanargmin(taxonomy["delta_logprob"].values)), taxonomy["delta_logprob"].shape)
    worst = f"L{deepest[0]}H{deepest[1]}"
    at_worst = taxonomy.isel(layer=int(deepest[0]), head=int(deepest[1]))
    sentences = [
        f"**Single heads.** Replacing one head by its mean (at the last prompt position and the answer) changes the reference's "
        f"log-probability clearly (interval without 0) for {clear} of {low.size} heads; 5 % would by chance. The largest loss is "
        f"{float(at_worst['delta_logprob']):.2f} nats, {worst}, whose attention has AUROC {float(at_worst['grounding']):.2f} on the "
        f"evidence.",
        f"**Do the heads that look right matter?** Rank correlation over heads of grounding AUROC with the ablation effect: {hurt} "
        f"(negative: what looks at the evidence is needed); with the direct logit attribution: {wrote}; with the share of visual attention "
        f"on evidence (VER): {agreement('grounding', 'evidence_share')}; of VER with the ablation effect: "
        f"{agreement('evidence_share', 'delta_logprob')}; of direct attribution with the ablation effect: "
        f"{agreement('direct', 'delta_logprob')}.",
    ]
    return Heads(taxonomy, figures, sentences, best_heads(m))


def best_heads(material: Material) -> NDArray[np.intp]:
    """(head, 2) all heads by their AUROC on the evidence in the split `profile`, so that they are not chosen on what is judged."""
    fitted = interp.open_trace(material.out / "profile.zarr")
    mean = interp.analysis.grounding(fitted, level="head")["auroc"].mean("sample").transpose("layer", "head").values
    order = np.argsort(-np.nan_to_num(mean), axis=None)
    return np.stack(np.unravel_index(order, mean.shape), axis=1).astype(np.intp)


def ablations(material: Material, grounding: NDArray[np.intp], counts: tuple[int, ...] = (1, 2, 4, 8)) -> list[str]:
    """The best grounding heads ablated, beside as many random ones of the same layers, paired on samples."""
    m = material
    rows, scores, names = [], [m.ds["exact_match"].values], ["none"]
    logprobs = [m.ds["reference_logprob"].values]
    for k in counts:
        chosen = grounding[:k]
        random = layer_matched(chosen, m.vlm.n_heads, _DRAWS, seed=k, avoid=grounding[: max(counts)])
        for label, heads in [(f"top {k}", chosen), *((f"random {k}, draw {i}", draw) for i, draw in enumerate(random))]:
            with ablate_heads(m.vlm, [(int(a), int(b)) for a, b in heads], _MODE, "generated", m.reference):
                traced = interp.trace(m.vlm, m.bench, batch_size=m.batch_size, progress=False)
            names.append(label)
            scores.append(traced["exact_match"].values)
            logprobs.append(traced["reference_logprob"].values)
    sentences = []
    for score, table, digits in (("exact match", scores, 3), ("reference log-probability", logprobs, 2)):
        for k in counts:
            at = [i for i, name in enumerate(names) if name.startswith(f"random {k},")]
            top, control, none = table[names.index(f"top {k}")], np.mean([table[i] for i in at], axis=0), table[0]
            dims = {"method": ["none", "random", "top"], "image_id": ("sample", m.ds["image_id"].values.astype(object))}
            paired = xr.Dataset({"score": (("method", "sample"), np.stack([none, control, top]).astype(float))}, coords=dims)
            for against in ("none", "random"):
                tested = compare(paired.sel({"method": [against, "top"]}), against, "score").isel(method=0)
                low, high = tested["interval"].values
                rows.append(
                    {"score": score, "k": k, "against": against, "top": float(tested["mean"]), against: float(tested["mean_against"])}
                    | {"difference": float(tested["difference"]), "lower": float(low), "upper": float(high)}
                    | {"p_permutation": float(tested["p_permutation"]), "n": int(tested["n"]), "draws": _DRAWS}
                )
                if k == max(counts) and against == "random":
                    said = f"{float(tested['difference']):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
                    sentences.append(f"{score} {said}, p = {float(tested['p_permutation']):.3f}")
    write_rows(rows, m.out / "ablation.csv")
    return [
        f"**Ablating the {max(counts)} best grounding heads** (chosen on `profile`, replaced by their means) less as many random heads of "
        f"the same layers ({_DRAWS} draws): {'; '.join(sentences)}. All k in ablation.csv."
    ]


def masking(material: Material, grounding: NDArray[np.intp], k: int = 8) -> list[str]:
    """Is VEA's gain lost without the grounding heads? Answers under ablation, by the plain model's own map."""
    m = material
    random = layer_matched(grounding[:k], m.vlm.n_heads, 1, seed=k, avoid=grounding[:k])[0]
    rows, gains = [], []
    for label, heads in (("none", grounding[:0]), (f"top {k}", grounding[:k]), (f"random {k}", random)):
        with ablate_heads(m.vlm, [(int(a), int(b)) for a, b in heads], _MODE, "generated", m.reference):
            answers = interp.evaluate(
                m.vlm, m.bench, ["base", "inst", "vea"], m.profile, batch_size=m.batch_size, attribution=m.ds, progress=False
            )
        tested = compare(answers.sel({"method": ["inst", "vea"]}), "inst").isel(method=0)
        low, high = tested["interval"].values
        means = answers["exact_match"].mean("sample")
        rows.append(
            {"ablated": label, **{str(name): float(means.sel({"method": name})) for name in ("base", "inst", "vea")}}
            | {
                "vea less inst": float(tested["difference"]),
                "lower": float(low),
                "upper": float(high),
                "p_permutation": float(tested["p_permutation"]),
            }
            | {"n": int(tested["n"])}
        )
        gains.append(f"{label}: {float(tested['difference']):.3f} [{low:.3f}, {high:.3f}]")
    write_rows(rows, m.out / "masking.csv")
    return [f"**Ablation beside masking.** VEA less inst, exact match, with heads ablated: {'; '.join(gains)}."]
