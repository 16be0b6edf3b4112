"""Evidence: attention to it cut, its activations patched, and what VEA changes in the model rather than in its picture."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import plotly.graph_objects as go
import xarray as xr

import interp
from experiments.causal_study.material import Material, cell, write_rows
from interp import plots
from interp.analysis import compare, knockout_effect, rapt
from interp.findings import mean_of, write_csv
from interp.interventions import Pair, arm_pairs, digit_pairs, evidence_map, highlight, highlight_pairs, knockout, patch, shift

_PAIRS = 60
_LEAST = {"digit": 2.0, "arms": 2.0, "vea": 0.5}  # logits between the runs of a pair; recovery is a quotient by it


def knocked(material: Material, window: int) -> tuple[dict[str, go.Figure], list[str]]:
    """Evidence, its size-matched control and the question, hidden from the answer and from all text."""
    m = material
    figures, sentences = {}, []
    for to, name in (("last", "knockout"), ("text", "knockout_text")):
        result = knockout(m.vlm, m.bench, block=("evidence", "control", "question"), to=to, window=window)
        result.to_zarr(m.out / f"{name}.zarr", mode="w", consolidated=False)
        effect = knockout_effect(result)
        figures[name] = plots.knockout_curves(effect)
        write_csv(effect.drop_vars([v for v in effect.data_vars if effect[v].dtype.kind not in "fi"]), m.out / f"{name}.csv")
        excess = effect["excess"].sel(group="correct")
        if excess.isnull().all():
            sentences.append("**Knock-out**: no right answer has evidence and a control of its size.")
            continue
        layer = int(excess["layer"].values[int(np.nanargmin(excess.values))])
        parts = []
        for group in ("correct", "wrong"):
            at = effect.sel(group=group, layer=layer)
            low, high = at["excess_interval"].values
            parts.append(f"{group} {float(at['excess']):.2f} [{low:.2f}, {high:.2f}]")
        whom = "the answer's own tokens" if to == "last" else "all text"
        sentences.append(
            f"**Knock-out, evidence hidden from {whom}** (window of {window}, centred at layer {layer}, where right answers lose most; "
            f"chosen on these samples, so rather too large): "
            f"log-probability of the reference beyond the size-matched control, nats: {', '.join(parts)}."
        )
    return figures, sentences


def patched(material: Material) -> tuple[dict[str, go.Figure], list[str]]:
    """Three kinds of pairs, patched by layer and token group; and by head."""
    m = material
    asked = [sample for sample in m.bench if sample.evidence]
    kinds: dict[str, list[Pair]] = {"digit": digit_pairs(asked[:_PAIRS]), "arms": arm_pairs(m.bench)[:_PAIRS]}
    kinds["vea"] = highlight_pairs(asked[:_PAIRS], m.ds, m.profile)
    figures: dict[str, go.Figure] = {}
    tables: dict[str, xr.Dataset] = {}
    sentences: list[str] = []
    for kind, pairs in kinds.items():
        if not pairs:
            sentences.append(f"**Patching, {kind} pairs**: these samples make none.")
            continue
        result = patch(m.vlm, pairs, min_difference=_LEAST[kind])
        known = int(np.isfinite(result["recovery"].sel(group="all").transpose("pair", "layer").values).any(axis=1).sum())
        if not known:
            sentences.append(f"**Patching, {kind} pairs**: in none of {len(pairs)} do the two runs differ enough to be told apart.")
            continue
        summary = mean_of(result["recovery"].rename(pair="sample"), result.rename(pair="sample"))
        figures[f"patching_{kind}"] = plots.patching_map(summary.assign_attrs(**{**result.attrs, "pairs": f"{kind} pairs"}))
        tables[kind] = summary
        early, middle = 0, m.vlm.n_layers // 2
        at = {(group, layer): cell(summary.sel(group=group, layer=layer)) for group in ("evidence", "last") for layer in (early, middle)}
        sentences.append(
            f"**Patching, {kind} pairs** ({known} of {len(pairs)} whose runs differ): recovery from the evidence tokens "
            f"{at['evidence', early]} after layer {early} and {at['evidence', middle]} after layer {middle}; from the last token "
            f"{at['last', early]} and {at['last', middle]}."
        )
    if kinds["digit"]:
        heads = patch(m.vlm, kinds["digit"], site="head", min_difference=_LEAST["digit"])
        summary = mean_of(heads["recovery"].rename(pair="sample"), heads.rename(pair="sample"))
        figures["patching_heads"] = plots.patching_map(summary.assign_attrs(**{**heads.attrs, "pairs": "digit pairs"}))
        write_csv(summary, m.out / "patching_heads.csv")
    if tables:
        write_csv(cast(xr.Dataset, xr.concat(list(tables.values()), xr.IndexVariable("pairs", list(tables)))), m.out / "patching.csv")
    return figures, sentences


def refocused(material: Material, window: int) -> list[str]:
    """VEA changes the picture; does it change how the model attends, and how much it needs the evidence? Beside the same map, shifted."""
    m = material
    shown: dict[str, list[interp.Sample]] = {"vea": [], "shifted": []}
    for k, sample in enumerate(m.bench):
        traced, pictures = m.ds.isel(sample=k), sample.open_images()
        maps = [evidence_map(traced, m.profile, image_index=index) for index in range(len(pictures))]
        for name, own in (("vea", maps), ("shifted", [shift(one, seed=k) for one in maps])):
            lit = tuple(highlight(picture, one) for picture, one in zip(pictures, own, strict=True))
            shown[name].append(replace(sample, images=lit))
    traces = {"plain": m.ds}
    cut = {"plain": m.bench, **shown}
    for name, bench in shown.items():
        traces[name] = interp.trace(m.vlm, bench, batch_size=m.batch_size, progress=False)
    layers = list(m.profile.layers)
    measures: dict[str, dict[str, np.ndarray]] = {}
    for name, ds in traces.items():
        relative = rapt(ds).sel(layer=layers).mean("layer")
        loss = knockout(m.vlm, cut[name], block=("evidence", "control"), window=window, progress=False)
        loss = loss["delta_logprob"].isel(layer=m.vlm.n_layers // 2)
        blocks = [str(block) for block in loss["block"].values]
        measures[name] = {
            "RAPT of the evidence, profiled layers": relative.sel(section="evidence").values,
            "AUROC on the evidence, profiled layers": interp.analysis.auroc(
                interp.analysis.profiled_map(ds, m.profile), ds["coverage"], m.profile.rule
            ).values,
            "knock-out of the evidence beyond its control, nats": (
                loss.isel(block=blocks.index("evidence")) - loss.isel(block=blocks.index("control"))
            ).values,
            "reference log-probability, nats": ds["reference_logprob"].values,
            "exact match": ds["exact_match"].values,
        }
    rows, said = [], []
    for measure in measures["plain"]:
        table = np.stack([measures[name][measure] for name in ("plain", "shifted", "vea")]).astype(float)
        coords = {"method": ["plain", "shifted", "vea"], "image_id": ("sample", m.ds["image_id"].values.astype(object))}
        paired = xr.Dataset({"score": (("method", "sample"), table)}, coords=coords)
        for against in ("plain", "shifted"):
            tested = compare(paired.sel({"method": [against, "vea"]}), against, "score").isel(method=0)
            low, high = tested["interval"].values
            rows.append(
                {"measure": measure, "against": against, "vea": float(tested["mean"]), "other": float(tested["mean_against"])}
                | {"difference": float(tested["difference"]), "lower": float(low), "upper": float(high)}
                | {"p_permutation": float(tested["p_permutation"]), "n": int(tested["n"])}
            )
            if against == "shifted":
                said.append(f"{measure} {float(tested['difference']):.3f} [{low:.3f}, {high:.3f}]")
    write_rows(rows, m.out / "vea.csv")
    return [f"**Does VEA change the model or only its picture?** Highlighted less the same map shifted, same wording: {'; '.join(said)}."]
