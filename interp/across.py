"""Several models side by side: of each the few numbers that say whether it saw, read and believed, and whether highlighting helped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from interp.analysis import holm
from interp.analysis.seen import NULLS
from interp.errors import InterpError
from interp.findings import Compared, Findings

NOTE = (
    "Results of organisms (small models trained on this benchmark) validate the tools and show that an effect can occur; they are no "
    "evidence about released checkpoints."
)
EFFECTS = (("vea", "inst"), ("vea", "base"), ("vea-shifted", "inst"), ("vea-uniform", "inst"), ("vea-boxes", "inst"))
BELIEF = "seeing but not believing"

_GROUPS = ("correct", "wrong")
_MAP, _ON, _OFF = "AUROC of the profiled map", "relative attention on evidence", "relative attention off evidence"
_EXACT = "exact match, answerable"
_SAME = ("benchmark", "split", "prompt", "prompt_order")
_LEVEL = 0.05
_NAN = (np.nan, np.nan)


class _Value(NamedTuple):
    """One number of one model; `p` before adjustment."""

    mean: float = np.nan
    interval: tuple[float, float] = _NAN
    n: int = 0
    expected: float = np.nan
    p: float = np.nan
    excess: float = np.nan
    excess_interval: tuple[float, float] = _NAN


def across(models: Mapping[str, tuple[Findings, Compared]]) -> xr.Dataset:
    """What was found of each model, by name, as one table.

    Parameters
    ----------
    models
        By the name to show: what `analyse` found in the model's trace, with a profile, and what `compare_methods` found in its answers to
        the same questions.

    Returns
    -------
    xr.Dataset
        Over (model, quantity): `mean`, `interval` (also ci_bound), `n` samples, and `expected`, what chance gives (NaN where there is no
        such level; 0 for a difference). The quantities:

        - ``exact match, answerable``: of `base`, without samples that show no answer.
        - ``AUROC of the profiled map, correct`` and ``, wrong``; ``relative attention on evidence, correct``, ...: RAPT of the profiled
          layers (paper, Fig. 4), on evidence and off it, 1 being an even spread over the prompt.
        - ``seen, wrong, placed`` and ``, distractor``: share of the wrong answers whose evidence is seen, against either null, with
          `excess`, what is seen beyond `expected`, and its `excess_interval`; these two are NaN for all other quantities.
        - ``seeing but not believing, placed`` and ``, distractor``: share of the wrong answers that are seen and readable; `expected` is
          what it would be if nobody saw.
        - ``vea less inst``, ...: paired differences in exact match over all samples (`EFFECTS`), with `p`: signs of whole pictures
          flipped, after Holm over these differences of the model.

        What was not asked of a model (a method, a profile, what is readable) is NaN with n = 0. Attributes, as JSON by model:
        `profiled_layers`, `revisions`, `n`; `layers`, how many the model has.

    Raises
    ------
    InterpError
        No model is given, the models were asked different things, or findings and answers are of two models.
    """
    if not models:
        raise InterpError("No model was given to put side by side; give the findings of one or more.")
    shared = _shared(models)
    rows = {name: _row(found, compared) for name, (found, compared) in models.items()}
    quantities = list(next(iter(rows.values())))

    def column(part: str) -> np.ndarray[Any, np.dtype[Any]]:
        return np.array([[getattr(row[quantity], part) for quantity in quantities] for row in rows.values()])

    dims = ("model", "quantity")
    interval = next(iter(models.values()))[0].shift["interval"].attrs
    variables = {
        "mean": (dims, column("mean"), {"long_name": "share, mean or difference, as `quantity` says", "units": "1"}),
        "interval": ((*dims, "ci_bound"), column("interval"), {**interval, "units": "1"}),
        "n": (dims, column("n"), {"long_name": "samples", "units": "1"}),
        "expected": (dims, column("expected"), {"long_name": "what chance gives", "units": "1"}),
        "excess": (dims, column("excess"), {"long_name": "share seen beyond chance", "units": "1"}),
        "excess_interval": ((*dims, "ci_bound"), column("excess_interval"), {**interval, "units": "1"}),
        "p": (
            dims,
            np.stack([holm([row[quantity].p for quantity in quantities]) for row in rows.values()]),
            {"long_name": "p-value, signs of whole pictures flipped, after Holm over the model's differences", "units": "1"},
        ),
    }
    coords = {"model": list(rows), "quantity": quantities, "ci_bound": ["lower", "upper"]}
    found = {name: pair[0] for name, pair in models.items()}
    described = {
        "model": ", ".join(rows),
        "profiled_layers": json.dumps({name: list(one.profile.layers) if one.profile else [] for name, one in found.items()}),
        "layers": json.dumps({name: one.shift.sizes["layer"] for name, one in found.items()}),
        "revisions": json.dumps({name: str(one.shift.attrs.get("revision", "")) for name, one in found.items()}),
        "n": json.dumps({name: int(one.visibility["count"].sum()) for name, one in found.items()}),
        "note": NOTE,
    }
    return xr.Dataset(variables, coords=coords, attrs=shared | described)


def sentences(table: xr.Dataset) -> list[str]:
    """What the numbers say of each model, in whatever direction they came out; `table` as `across` gives it."""
    return [f"{name}: {_said(table.sel(model=name))}" for name in table["model"].values]


def markdown(table: xr.Dataset, beside: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """The table as Markdown, a row a model, with a line below on how to read it.

    Parameters
    ----------
    table
        As `across` gives it.
    beside
        Further columns, by heading; of each the text by model. They stand after the exact match.
    """
    extra = beside or {}
    layers, depth = (json.loads(table.attrs[name]) for name in ("profiled_layers", "layers"))
    heads = ["model", "exact match, answerable", *extra, "profiled layers", "AUROC of the profiled map", "evidence of wrong answers seen"]
    heads += [BELIEF, "RAPT on / off evidence", "vea less inst", "controls less inst"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in map(str, table["model"].values):
        one = table.sel(model=name)
        nulls = [null for null in NULLS if int(one["n"].sel(quantity=f"seen, wrong, {null}"))]
        cells = [name, number(one, _EXACT, n=True), *(texts.get(name, "") for texts in extra.values())]
        cells.append(f"{', '.join(map(str, layers[name])) or 'none'} (of 0 to {depth[name] - 1})")
        cells.append("<br>".join(f"{group} {number(one, f'{_MAP}, {group}', n=True)}" for group in _GROUPS))
        cells.append("<br>".join(f"{null} {number(one, f'seen, wrong, {null}', chance=True, n=True)}" for null in nulls) or "none")
        cells.append("<br>".join(f"{null} {number(one, f'{BELIEF}, {null}', chance=True)}" for null in nulls) or "none")
        cells.append("<br>".join(f"{group} {number(one, f'{_ON}, {group}')} / {number(one, f'{_OFF}, {group}')}" for group in _GROUPS))
        cells.append(f"{number(one, 'vea less inst')}, {_p(one, 'vea less inst')}")
        others = [method for method, against in EFFECTS if method != "vea" and against == "inst"]
        cells.append("<br>".join(f"{method} {number(one, f'{method} less inst')}, {_p(one, f'{method} less inst')}" for method in others))
        lines.append(f"| {' | '.join(cells)} |")
    about = table.attrs
    text = (
        f"Benchmark {about['benchmark']}, split {about['split']}, prompt {about['prompt']}, {about['prompt_order']}; n = {_counts(table)}, "
        f"seed {about['seed']}. {table['interval'].attrs['long_name'].replace('%', ' %')} in brackets, not adjusted over models. In round "
        f"brackets what chance gives, for {BELIEF} if nobody saw. Seen: against boxes of equal size placed elsewhere, and against the "
        f"distractors, where the evidence is visible; AUROC: where it can be ranked. vea and its controls: paired differences in exact "
        f"match, p after Holm within the model. {about['note']}"
    )
    return "\n".join([*lines, "", text])


def number(one: xr.Dataset, quantity: str, *, chance: bool = False, n: bool = False) -> str:
    """``0.62 [0.58, 0.66] (0.35), n = 92`` of one model: the mean, its interval, and what chance gives and n where they are wanted."""
    part = one.sel(quantity=quantity)
    mean, expected, count = (float(part[name]) for name in ("mean", "expected", "n"))
    if np.isnan(mean):
        return "none"
    low, high = (float(v) for v in part["interval"])
    signed = "+" if " less " in quantity else ""
    text = f"{mean:{signed}.2f} " + ("[no interval]" if np.isnan(low) else f"[{low:{signed}.2f}, {high:{signed}.2f}]")
    text += f" ({expected:.2f})" if chance else ""
    return f"{text}, n = {count:.0f}" if n else text


def _shared(models: Mapping[str, tuple[Findings, Compared]]) -> dict[str, Any]:
    """What all models were asked, and the seed of their intervals."""
    first, found = next(iter(models.items()))
    asked = {key: found[0].shift.attrs.get(key, "") for key in _SAME}
    for name, (mine, compared) in models.items():
        for key in _SAME:
            if mine.shift.attrs.get(key, "") != asked[key]:
                raise InterpError(
                    f"{name!r} was asked with {key} {mine.shift.attrs.get(key)!r}, but {first!r} with {asked[key]!r}; ask all models alike."
                )
        for key in ("model", "revision", "benchmark", "split", "prompt_order", "samples"):
            here, there = mine.shift.attrs.get(key), compared.scores.attrs.get(key)
            if here is not None and there is not None and here != there:
                raise InterpError(f"Findings of {name!r} are of {key} {here!r}, but the answers of {there!r}; give those of one model.")
    seeds = [part.attrs["seed"] for part in (*found[0].measures.values(), *found[1].against) if "seed" in part.attrs]
    return asked | {"seed": seeds[0] if seeds else 0}


def _row(found: Findings, compared: Compared) -> dict[str, _Value]:
    row = {_EXACT: _exact(compared)}
    for name, chance in ((_MAP, 0.5), (_ON, np.nan), (_OFF, np.nan)):
        row |= {f"{name}, {group}": _split(found.measures.get(name), group, chance) for group in _GROUPS}
    row |= {f"seen, wrong, {null}": _seen(found.disconnect, null) for null in NULLS}
    row |= {f"{BELIEF}, {null}": _belief(found.disconnect, null) for null in NULLS}
    return row | {f"{method} less {against}": _effect(compared, method, against) for method, against in EFFECTS}


def _exact(compared: Compared) -> _Value:
    one = compared.answerable
    if one is None or "base" not in one["method"].values:
        return _Value()
    part = one.sel({"method": "base"})
    return _Value(float(part["mean"]), _bounds(part["interval"]), int(part["n"]))


def _split(measure: xr.Dataset | None, group: str, chance: float) -> _Value:
    if measure is None:
        return _Value()
    part = measure.sel(group=group)
    return _Value(float(part["mean"]), _bounds(part["interval"]), int(part["n"]), chance)


def _seen(table: xr.Dataset | None, null: str) -> _Value:
    if table is None or null not in table["null"].values:
        return _Value()
    part = table.sel(null=null, group="wrong")
    beyond = {"excess": float(part["seen_excess"]), "excess_interval": _bounds(part["excess_interval"])}
    return _Value(float(part["seen_share"]), _bounds(part["seen_interval"]), int(part["seen_n"]), float(part["seen_expected"]), **beyond)


def _belief(table: xr.Dataset | None, null: str) -> _Value:
    if table is None or null not in table["null"].values or "readable" not in table["readable"].values:
        return _Value()
    part = table.sel(null=null, outcome=BELIEF, group="wrong")
    return _Value(float(part["outcome_share"]), _bounds(part["outcome_interval"]), int(part["seen_n"]), float(part["outcome_expected"]))


def _effect(compared: Compared, method: str, against: str) -> _Value:
    one = next((each for each in compared.against if each.attrs.get("against") == against), None)
    if one is None or method not in one["method"].values:
        return _Value()
    part = one.sel({"method": method})
    return _Value(float(part["difference"]), _bounds(part["interval"]), int(part["n"]), 0.0, float(part["p_permutation"]))


def _bounds(interval: xr.DataArray) -> tuple[float, float]:
    return float(interval.sel(ci_bound="lower")), float(interval.sel(ci_bound="upper"))


def _said(one: xr.Dataset) -> str:
    parts = [f"exact match {number(one, _EXACT, n=True)}"]
    nulls = [null for null in NULLS if int(one["n"].sel(quantity=f"seen, wrong, {null}"))]
    for null in nulls:
        part = one.sel(quantity=f"seen, wrong, {null}")
        low, high = (float(v) for v in part["excess_interval"])
        than = "seen beyond chance" if low > 0 else "seen less than by chance" if high < 0 else "not seen beyond chance"
        text = (
            f"against {null} boxes the evidence of wrong answers is {than} ({number(one, f'seen, wrong, {null}')}, "
            f"chance {float(part['expected']):.2f}, n = {int(part['n'])})"
        )
        belief = one.sel(quantity=f"{BELIEF}, {null}")
        if np.isfinite(belief["mean"]):
            share, nobody = number(one, f"{BELIEF}, {null}"), float(belief["expected"])
            text += f" and {share} of them are seen, readable and wrong (if nobody saw: {nobody:.2f})"
        parts.append(text)
    if not nulls:
        parts.append("no wrong answer could be judged for seeing")
    effect = one.sel(quantity="vea less inst")
    if np.isfinite(effect["mean"]):
        better = float(effect["mean"]) > 0
        than = "no clear change" if not float(effect["p"]) < _LEVEL else "a gain" if better else "a loss"
        told = f"{number(one, 'vea less inst')}, {_p(one, 'vea less inst')}"
        parts.append(f"highlighting makes {than} in exact match (vea less inst {told}; controls: {_controls(one)})")
    return "; ".join(parts) + "."


def _controls(one: xr.Dataset) -> str:
    """Each control's difference from inst; with its p where it is clear, so that no effect of a control is passed over."""
    said = []
    for name in (method for method, against in EFFECTS if method != "vea" and against == "inst"):
        quantity = f"{name} less inst"
        clear = float(one["p"].sel(quantity=quantity)) < _LEVEL
        said.append(f"{name} {number(one, quantity)}" + (f", {_p(one, quantity)}: clear" if clear else ""))
    return ", ".join(said)


def _p(one: xr.Dataset, quantity: str) -> str:
    p = float(one["p"].sel(quantity=quantity))
    return "p undefined" if np.isnan(p) else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _counts(table: xr.Dataset) -> str:
    return " / ".join(dict.fromkeys(str(n) for n in json.loads(table.attrs["n"]).values()))
