"""Heads: what each does, writes and looks at; whether those that look right matter; and VEA's gain without them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

import interp
from experiments.artefacts.words import p_value
from experiments.causal_study.material import Material, write_rows
from interp import circuits, plots
from interp.analysis import compare, head_measures, head_taxonomy, holm, layer_matched, random_heads
from interp.findings import mean_of, write_csv
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


def _controls(material: Material, grounding: NDArray[np.intp], k: int, most: int, n_draws: int) -> dict[str, NDArray[np.intp]]:
    """Draws (draw, head, 2) of `k` heads besides the `most` best: of the same layers as the `k` best, and of any."""
    m, avoid = material, grounding[:most]
    return {
        "layer-matched": layer_matched(grounding[:k], m.vlm.n_heads, n_draws, seed=k, avoid=avoid),
        "random": random_heads(k, m.vlm.n_layers, m.vlm.n_heads, n_draws, seed=k, avoid=avoid),
    }


def _named(heads: NDArray[np.intp]) -> list[tuple[int, int]]:
    return [(int(layer), int(head)) for layer, head in heads]


def _tested(material: Material, one: NDArray[np.floating], other: NDArray[np.floating]) -> dict[str, float]:
    """`one` less `other` (sample,), paired, and with its interval and test."""
    coords = {"method": ["other", "one"], "image_id": ("sample", material.ds["image_id"].values.astype(object))}
    paired = xr.Dataset({"score": (("method", "sample"), np.stack([other, one]).astype(float))}, coords=coords)
    found = compare(paired, "other", "score").isel(method=0)
    low, high = (float(bound) for bound in found["interval"].values)
    means = {"mean": float(found["mean"]), "mean_against": float(found["mean_against"])}
    spread = {"difference": float(found["difference"]), "lower": low, "upper": high}
    return means | spread | {"p_permutation": float(found["p_permutation"]), "n": int(found["n"])}


def ablations(material: Material, grounding: NDArray[np.intp], counts: tuple[int, ...] = (1, 2, 4, 8)) -> list[str]:
    """The best grounding heads ablated, beside as many others of the same layers, and of any, paired on samples."""
    m, most = material, max(counts)
    scores = {"exact match": "exact_match", "reference log-probability": "reference_logprob"}

    def scored(heads: NDArray[np.intp]) -> NDArray[np.floating]:
        with ablate_heads(m.vlm, _named(heads), _MODE, "generated", m.reference):
            traced = interp.trace(m.vlm, m.bench, batch_size=m.batch_size, progress=False)
        return np.stack([traced[name].values for name in scores.values()])

    none = np.stack([m.ds[name].values for name in scores.values()])
    rows: list[dict[str, float | str]] = []
    for k in counts:
        top, best = scored(grounding[:k]), set(_named(grounding[:k]))
        others, shared = {"none": none}, {"none": 0.0}
        for name, draws in _controls(m, grounding, k, most, _DRAWS).items():
            others[name] = np.mean([scored(draw) for draw in draws], axis=0)
            shared[name] = float(np.mean([len(best & set(_named(draw))) for draw in draws]))
        for against, table in others.items():
            for score, one, other in zip(scores, top, table, strict=True):
                row = {"score": score, "k": k, "against": against, "shared_heads": shared[against]}
                rows.append(row | _tested(m, one, other) | {"draws": _DRAWS if against != "none" else 0})
    for score in scores:  # of one score, every k against everything
        mine = [row for row in rows if row["score"] == score]
        for row, p in zip(mine, holm([float(row["p_permutation"]) for row in mine]), strict=True):
            row["p_holm"] = float(p)
    write_rows(rows, m.out / "ablation.csv")
    said = []
    for row in rows:
        if row["k"] == most and row["against"] != "none":
            digits = 3 if row["score"] == "exact match" else 2
            values = [f"{float(row[name]):.{digits}f}" for name in ("difference", "lower", "upper")]
            heads = f"{row['against']} heads ({float(row['shared_heads']):.0f} of them among the best for want of others)"
            said.append(f"{row['score']}, less {heads}: {values[0]} [{values[1]}, {values[2]}], {p_value(row['p_permutation'])}")
    return [
        f"**Ablating the {most} best grounding heads** (chosen on `profile`, replaced by their means) less as many others "
        f"({_DRAWS} draws): {'; '.join(said)}. All k, with p-values corrected for their number, in ablation.csv."
    ]


def masking(material: Material, grounding: NDArray[np.intp], k: int = 8) -> list[str]:
    """Is VEA's gain lost without the grounding heads? Answers under ablation, by the plain model's own map."""
    m = material
    sets = {"none": grounding[:0], f"top {k}": grounding[:k]}
    sets |= {f"{name} {k}": draws[0] for name, draws in _controls(m, grounding, k, k, 1).items()}
    rows, said, gains = [], [], {}
    for label, heads in sets.items():
        with ablate_heads(m.vlm, _named(heads), _MODE, "generated", m.reference):
            answers = interp.evaluate(
                m.vlm, m.bench, ["base", "inst", "vea"], m.profile, batch_size=m.batch_size, attribution=m.ds, progress=False
            )
        score = {str(name): answers["exact_match"].sel({"method": name}).values for name in answers["method"].values}
        gains[label] = score["vea"] - score["inst"]
        gain, change = _tested(m, score["vea"], score["inst"]), _tested(m, gains[label], gains["none"])
        row = {"ablated": label, **{name: float(values.mean()) for name, values in score.items()}, "vea less inst": gain["difference"]}
        row |= {name: gain[name] for name in ("lower", "upper", "p_permutation", "n")}
        rows.append(row | {f"gain less none's, {name}": change[name] for name in ("difference", "lower", "upper", "p_permutation")})
        said.append(f"{label}: {gain['difference']:.3f} [{gain['lower']:.3f}, {gain['upper']:.3f}]")
    write_rows(rows, m.out / "masking.csv")
    return [f"**Ablation beside masking.** VEA less inst, exact match, with heads ablated: {'; '.join(said)}."]
