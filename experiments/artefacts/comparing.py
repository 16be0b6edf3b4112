"""Methods side by side in a table: means with intervals and costs, paired differences, and Holm's correction over the whole of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from experiments.artefacts.words import bounds, number, p_value
from experiments.authors.scores import exact_match
from interp.analysis import compare, holm, mean_interval
from interp.benchmarks import Sample
from interp.errors import InterpError

SCORES = {"exact_match": "EM", "token_f1": "F1"}
Row = dict[str, Any]


def answerable(answers: xr.Dataset) -> xr.Dataset:
    """Without the questions that the picture does not answer: they are scored apart.

    Raises
    ------
    InterpError
        No other question is left.
    """
    if "knob_absent" not in answers.variables:
        return answers
    kept = np.flatnonzero(~answers["knob_absent"].values.astype(bool))
    if not len(kept):
        raise InterpError("None of these questions can be answered from its picture, so nothing can be compared; take other samples.")
    return answers.isel(sample=kept)


def by_containment(answers: xr.Dataset, samples: Sequence[Sample]) -> xr.Dataset:
    """With `containment` (method, sample): 1 where a reference, however short, occurs anywhere in the answer, as the paper counts EM."""
    references = {sample.id: sample.references for sample in samples}
    wanted = [references[str(name)] for name in answers["sample"].values]
    said_so = [[exact_match(str(text), refs) for text, refs in zip(row, wanted, strict=True)] for row in answers["prediction"].values]
    return answers.assign(containment=answers["exact_match"].copy(data=np.array(said_so)).where(answers["exact_match"].notnull()))


def counted(answers: xr.Dataset) -> str:
    """``200, of which 176 answerable``: all questions are asked, and those without an answer are scored apart."""
    n, kept = answers.sizes["sample"], answerable(answers).sizes["sample"]
    return str(n) if n == kept else f"{n}, of which {kept} answerable"


def absent(answers: xr.Dataset) -> dict[str, str]:
    """Methods that are not applicable to this model, and why."""
    return json.loads(answers.attrs.get("not_applicable", "{}"))


_WORK = {
    "sink-redistribution": (
        "redistributed_heads",
        "changed no head, as none that looks at the picture looks at a sink: its answers are those of base",
    )
}
"""What a method records of its own work, and what it means where that is 0 for every sample."""


def idle(answers: xr.Dataset) -> dict[str, str]:
    """Methods that had nothing to change in this model, and why."""
    done = {name: (answers[variable], reason) for name, (variable, reason) in _WORK.items() if variable in answers.variables}
    return {name: reason for name, (work, reason) in done.items() if float(work.max()) == 0}


def mean_rows(answers: xr.Dataset, scores: Mapping[str, str] = SCORES, *, seed: int, **labels: Any) -> list[Row]:
    """A row for every method and score: mean, bounds and n, with what a sample costs. `labels` begin each row."""
    reasons = absent(answers)
    rows = []
    for variable, name in scores.items():
        found = mean_interval(answers[variable], answers["image_id"], seed=seed)
        for method in (str(each) for each in answers["method"].values):
            one = found.sel({"method": method})
            low, high = bounds(one["interval"])
            cost = answers[["passes", "seconds"]].sel({"method": method}).mean()
            row = {**labels, "method": method, "score": name, "mean": float(one["mean"]), "lower": low, "upper": high, "n": int(one["n"])}
            row |= {"passes": float(cost["passes"]), "seconds": float(cost["seconds"])}
            rows.append(row | ({"note": f"not applicable: {reasons[method]}"} if method in reasons else {}))
    return rows


def paired_rows(
    answers: xr.Dataset,
    against: str,
    methods: Sequence[str] | None = None,
    scores: Mapping[str, str] = SCORES,
    *,
    seed: int,
    **labels: Any,
) -> list[Row]:
    """A row for every method and score: its paired difference from `against`, bounds over pictures, and the sign-flip test's p.

    `methods` are by default all others. Nothing is corrected yet, see `correct`.
    """
    others = [str(each) for each in answers["method"].values if str(each) != against]
    chosen = others if methods is None else [name for name in methods if name != against]
    reasons, rows = absent(answers), []
    part = answers.sel({"method": [against, *chosen]})
    for variable, name in scores.items():
        found = compare(part, against, variable, seed=seed)
        for method in chosen:
            one = found.sel({"method": method})
            low, high = bounds(one["interval"])
            row = {**labels, "method": method, "less": against, "score": name, "difference": float(one["difference"])}
            row |= {"lower": low, "upper": high, "n": int(one["n"]), "wins": int(one["wins"]), "losses": int(one["losses"])}
            row["p"] = float(one["p_permutation"])
            reason = reasons.get(method) or reasons.get(against)
            rows.append(row | ({"note": f"not applicable: {reason}"} if reason else {}))
    return rows


def paired(values: xr.DataArray, pictures: Any, *, seed: int) -> Row:
    """One difference per sample (sample,) as columns: mean, bounds, n, and the sign-flip test's p."""
    table = np.stack([np.zeros(values.size), values.values.astype(float)])
    table[0, np.isnan(table[1])] = np.nan
    names = np.asarray(pictures).astype(object)
    both = xr.Dataset({"value": (("method", "sample"), table)}, coords={"method": ["nothing", "difference"], "image_id": ("sample", names)})
    one = compare(both, "nothing", "value", seed=seed).isel(method=0)
    low, high = bounds(one["interval"])
    return {"difference": float(one["difference"]), "lower": low, "upper": high, "n": int(one["n"]), "p": float(one["p_permutation"])}


def correct(rows: Sequence[Row]) -> list[Row]:
    """The rows with `p after Holm`, over all that hold a p."""
    tested = [k for k, row in enumerate(rows) if "p" in row]
    after = dict(zip(tested, holm([rows[k]["p"] for k in tested]), strict=True))
    return [row | ({"p after Holm": float(after[k])} if k in after else {}) for k, row in enumerate(rows)]


def find(rows: Sequence[Row], labels: Mapping[str, Any]) -> Row:
    """The one row with these values."""
    (row,) = (row for row in rows if all(row.get(name) == value for name, value in labels.items()))
    return row


def said(row: Row, digits: int = 3) -> str:
    """``0.031 [0.012, 0.050], p = 0.004``; why not, where it is not applicable."""
    value = row.get("difference", row.get("mean", np.nan))
    if np.isnan(value):
        return str(row.get("note", "none"))
    between = xr.DataArray([row["lower"], row["upper"]], dims="ci_bound", coords={"ci_bound": ["lower", "upper"]})
    tested = f", {p_value(row['p after Holm'])}" if "p after Holm" in row else ""
    return number(value, between, digits) + tested


def drawn(rows: Sequence[tuple[str, str, Row]], attrs: Mapping[str, Any]) -> xr.Dataset:
    """What `interp.plots.effects` draws, from rows with their headings and labels."""
    groups, names, values = (list(each) for each in zip(*rows, strict=True))
    columns = {
        "mean": ("row", [row.get("difference", row.get("mean", np.nan)) for row in values]),
        "interval": (
            ("ci_bound", "row"),
            [[row[bound] for row in values] for bound in ("lower", "upper")],
            {"long_name": "95% percentile bootstrap interval over image_id", "level": 0.95},
        ),
        "n": ("row", [row["n"] for row in values]),
    }
    if any("p after Holm" in row for row in values):
        columns["p"] = ("row", [row.get("p after Holm", np.nan) for row in values])
    coords = {"row": names, "group": ("row", groups), "ci_bound": ["lower", "upper"]}
    return xr.Dataset(columns, coords=coords, attrs=dict(attrs))


def by_levels(values: Sequence[xr.DataArray], answers: Sequence[xr.Dataset], names: Sequence[str], *, seed: int) -> xr.Dataset:
    """What `interp.plots.by_level` draws: of each level the mean of `values` (method, sample) and its interval, over its `answers`."""
    found = [mean_interval(each, one["image_id"], seed=seed) for each, one in zip(values, answers, strict=True)]
    level = xr.DataArray(list(names), dims="level", name="level")
    return xr.concat(found, dim=level, combine_attrs="override").assign_attrs(answers[0].attrs)


def table_of(rows: Sequence[Row], *columns: str) -> pd.DataFrame:
    """The rows as a table, `columns` first and the rest in the order they come."""
    names = list(dict.fromkeys([*(c for c in columns if any(c in row for row in rows)), *(name for row in rows for name in row)]))
    last = [name for name in ("note",) if name in names]
    return pd.DataFrame(rows, columns=[*(name for name in names if name not in last), *last])
