"""Causal studies as commands: run, write what every sample showed, a table of means and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from interp import plots
from interp.analysis import Profile, knockout_effect
from interp.benchmarks.sample import Sample
from interp.capture import open_trace
from interp.errors import InterpError
from interp.findings import mean_of, write_csv
from interp.interventions import Pair, arm_pairs, digit_pairs, head_reference, head_sweep, highlight_pairs, knockout, patch
from interp.settings import KnockoutSettings, PatchSettings, SweepSettings
from interp.vlm import VLM

_DIMS = {"delta_logprob": "nats", "delta_logit_diff": "logits", "flip": "1"}


@dataclass(frozen=True)
class Study:
    """What a command found: a sentence, the files it wrote, and notes on what it could not."""

    sentence: str
    files: list[Path]
    notes: list[str]


def run_sweep(vlm: VLM, bench: Sequence[Sample], settings: SweepSettings, others: Sequence[Sample]) -> Study:
    """Every head replaced in turn; `others` are the samples that means and donors come from.

    Writes ``sweep.zarr`` (sample, layer, head), ``heads.csv`` and ``head_effects``.
    """
    reference = None
    if settings.mode != "zero":
        # donors at every position are large; the mean over all positions is always there
        positions = "all" if (settings.mode, settings.positions) == ("resample", "all") else "last"
        name = f"{settings.benchmark} {settings.reference_split}"
        reference = head_reference(vlm, others, name=name, prompt=settings.prompt, positions=positions, seed=settings.seed)
    result = head_sweep(
        vlm,
        bench,
        mode=settings.mode,
        positions=settings.positions,
        reference=reference,
        prompt=settings.prompt,
        max_new_tokens=settings.max_new_tokens,
        chunk=settings.batch_size,
    )
    means = {name: mean_of(result[name].astype(np.float64), result) for name in _DIMS}
    table = xr.Dataset({f"{name}_{part}": means[name][part] for name in _DIMS for part in ("mean", "interval", "n")})
    figures = {"head_effects": plots.head_effects(means["delta_logprob"], unit="change of log-probability, nats")}
    effect = means["delta_logprob"]["mean"].transpose("layer", "head").values
    layer, head = (int(k) for k in np.unravel_index(int(np.nanargmin(effect)), effect.shape))
    low, high = means["delta_logprob"]["interval"].isel(layer=layer, head=head).values
    sentence = (
        f"{result.sizes['sample']} samples, {effect.size} heads; the largest loss of the reference's log-probability is "
        f"{effect[layer, head]:.3f} [{low:.3f}, {high:.3f}] nats, L{layer}H{head}"
    )
    return _write(settings.out, "sweep", result, {"heads": table}, figures, sentence)


def run_knockout(vlm: VLM, bench: Sequence[Sample], settings: KnockoutSettings) -> Study:
    """Attention edges blocked in a window of layers.

    Writes ``knockout.zarr`` (sample, block, layer), ``knockout.csv`` and, where evidence and control were both blocked, the figure.
    """
    result = knockout(
        vlm,
        bench,
        block=settings.block,
        to=settings.to,
        window=settings.window,
        rule=settings.rule,
        prompt=settings.prompt,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    mean = mean_of(result["delta_logprob"], result)
    figures: dict[str, go.Figure] = {}
    table = mean
    if {"evidence", "control"} <= set(settings.block):
        table = knockout_effect(result)
        figures["knockout"] = plots.knockout_curves(table)
    blocks = [str(block) for block in result["block"].values]
    said = []
    for k, block in enumerate(blocks):
        values = mean["mean"].isel(block=k).values
        if np.isfinite(values).any():
            said.append(f"{block} {np.nanmin(values):.3f} nats at layer {int(result['layer'].values[np.nanargmin(values)])}")
    sentence = f"{result.sizes['sample']} samples; largest mean loss by block: {', '.join(said) or 'none could be blocked'}"
    return _write(settings.out, "knockout", result, {"knockout": table}, figures, sentence)


def run_patch(vlm: VLM, bench: Sequence[Sample], settings: PatchSettings) -> Study:
    """Activations of one run put into another.

    Writes ``patching.zarr`` (pair, layer, group or head), ``patching.csv`` and the figure.

    Raises
    ------
    InterpError
        Pairs by highlighting need a trace and a profile.
    """
    pairs = _pairs(bench, settings)
    result = patch(
        vlm,
        pairs,
        site=settings.site,
        direction=settings.direction,
        min_difference=settings.min_difference,
        prompt=settings.prompt,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
    )
    known = int(np.isfinite(result["recovery"].transpose("pair", ...).values.reshape(len(pairs), -1)).any(axis=1).sum())
    mean = mean_of(result["recovery"].rename(pair="sample"), result.rename(pair="sample"))
    figures = {"patching": plots.patching_map(mean.assign_attrs({**result.attrs, "pairs": f"{settings.pairs} pairs"}))} if known else {}
    sentence = f"{known} of {len(pairs)} pairs whose two runs differ by {settings.min_difference:g} logits or more"
    return _write(settings.out, "patching", result, {"patching": mean}, figures, sentence)


def _pairs(bench: Sequence[Sample], settings: PatchSettings) -> list[Pair]:
    if settings.pairs == "digit":
        return digit_pairs(bench, settings.seed)
    if settings.pairs == "arms":
        return arm_pairs(bench)
    if settings.trace is None or settings.profile is None:
        raise InterpError("--pairs highlight needs --trace (these samples, from interp trace) and --profile (of another split).")
    asked = [sample for sample in bench if sample.evidence]
    return highlight_pairs(asked, open_trace(settings.trace), Profile.load(settings.profile), allow_overlap=settings.allow_overlap)


def _write(out: Path, name: str, result: xr.Dataset, tables: dict[str, xr.Dataset], figures: dict[str, go.Figure], sentence: str) -> Study:
    out.mkdir(parents=True, exist_ok=True)
    store = out / f"{name}.zarr"
    result.to_zarr(store, mode="w", consolidated=False)
    files = [store]
    for label, table in tables.items():
        files.append(write_csv(table, out / f"{label}.csv"))
    drawn, notes = plots.save(figures, out) if figures else ([], [])
    return Study(sentence, [*files, *drawn], notes)
