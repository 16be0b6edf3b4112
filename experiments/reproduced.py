"""What `interp reproduce` found, on one page for all models: a sentence for each figure and table, ours beside the paper's.

    python -m experiments.reproduced [--made results] [--results experiments/results/reproduced]

Reads the finished artefacts below MADE, where `interp reproduce --all --model demo/NAME` left them, and makes none. Writes
    summary.md     every artefact with what it says of each model, the paper's numbers where the setting is the same, and the time
    central.csv    the shares of the central finding, of every model, prompt order and null
    central.png    wrong answers whose evidence is seen, of every model (where no Chrome or Chromium is found central.html and its script)
    run.json       models with revisions, samples and seconds; versions
Fails where a model lacks an artefact that another one has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import pandas as pd
import xarray as xr
from rich.console import Console

from experiments.artefacts import PAPER
from experiments.artefacts.files import known_artefacts
from experiments.artefacts.interface import STATEMENT
from experiments.artefacts.markdown import cell, rows_of
from experiments.artefacts.words import p_value, percent
from interp import plots
from interp.errors import InterpError

RESULTS = Path(__file__).resolve().parent / "results" / "reproduced"
CENTRAL = "central"
_DRAWN = ("central.png", "central.html", "plotly.min.js")
_SEEN, _BELIEF, _RIGHT = "wrong, seen", "wrong, seen and readable", "correct, seen"
_Known = Mapping[str, Any]
_Frame = Any  # a data frame, whose columns no type checker knows
_out = Console(soft_wrap=True)


def main(*, made: Path = Path("results"), results: Path = RESULTS) -> None:
    """Write the page.

    Parameters
    ----------
    made
        Folder that `interp reproduce` wrote below.
    results
        Folder for what is kept.

    Raises
    ------
    InterpError
        Nothing is there, or a model lacks what another one has.
    """
    found = known_artefacts(made)
    if not found:
        raise InterpError(f"No finished artefact lies below {str(made)!r}; run interp reproduce --all --out {made} first.")
    models = list(dict.fromkeys(known["models"][0] for known in found if len(known["models"]) == 1))
    _refuse_missing(found, models)
    shares = central(found, models, made)
    results.mkdir(parents=True, exist_ok=True)
    for name in _DRAWN:  # no figure of an earlier run may stand beside this one's table
        (results / name).unlink(missing_ok=True)
    shares.to_csv(results / "central.csv", index=False, lineterminator="\n")
    (results / "summary.md").write_text(summary(found, models), encoding="utf-8")
    (results / "run.json").write_text(json.dumps(_run(found, models), indent=1) + "\n", encoding="utf-8")
    _, notes = plots.save({CENTRAL: _figure(shares, found)}, results)
    if (results / _DRAWN[0]).exists():
        for name in _DRAWN[1:]:
            (results / name).unlink()
    for line in [*notes, f"wrote {results}"]:
        _out.print(line, highlight=False, markup=False)


def summary(found: Sequence[_Known], models: Sequence[str]) -> str:
    """Every artefact with what it says of each model, as Markdown."""
    spent = ", ".join(f"{model} {_minutes(found, model):.0f}" for model in models)
    total = sum(float(known["seconds"]) for known in found) / 60
    lines = ["# The paper's figures and tables, reproduced", "", STATEMENT, ""]
    lines += [
        f"{len(found)} artefacts, made by `interp reproduce --all`: {total:.0f} minutes by the clock in all (minutes by model: {spent}; "
        "work that several artefacts share counts for the first, what was made again from its stores each time, and whatever ran beside or "
        "held a run is in them).",
        "",
    ]
    for name in _names(found):
        entries = [known for known in found if known["artefact"] == name]
        lines += [f"## {name}: {cell(entries[0]['title'])}", "", cell(entries[0]["says"]), ""]
        lines += [f"- **{cell(', '.join(e['models']))}** (n = {cell(e['n'])}): {cell(e['sentence'])}" for e in entries]
        notes = dict.fromkeys(e["intervals"] for e in entries if e.get("intervals"))
        lines += ["", *notes, *([""] if notes else []), *_beside(entries)]
    return "\n".join(lines).rstrip() + "\n"


def central(found: Sequence[_Known], models: Sequence[str], made: Path) -> _Frame:
    """The shares of the central finding of all models, a row each; p-values are corrected within a model."""
    folders = {known["models"][0]: known["folder"] for known in found if known["artefact"] == CENTRAL}
    tables = [pd.read_csv(made / folders[model] / "table.csv").assign(model=model) for model in models if model in folders]
    if not tables:
        raise InterpError(f"The artefact {CENTRAL!r} is not there; run interp reproduce {CENTRAL} --out {made} first.")
    table: _Frame = pd.concat(tables, ignore_index=True)
    return table[["model", *(name for name in table.columns if name != "model")]]


def central_table(shares: _Frame) -> str:
    """A row for each model and prompt order, both nulls side by side, as Markdown."""
    nulls = list(dict.fromkeys(shares["null"]))
    heads = ("wrong, seen (by chance; p)", "wrong, seen and readable (if nobody saw)", "right, seen")
    columns = ["model", "order", "wrong, n", *(f"{head}, {null} boxes" for null in nulls for head in heads)]
    rows = []
    for (model, order), mine in shares.groupby(["model", "order"], sort=False):
        counts = mine.loc[mine["share"] == _SEEN, "n"]
        row: list[Any] = [model, order, " / ".join(str(int(n)) for n in dict.fromkeys(counts)) or "none"]
        for null in nulls:
            of_null = mine[mine["null"] == null].set_index("share")
            row += [_shown(of_null, _SEEN, tested=True), _shown(of_null, _BELIEF), _shown(of_null, _RIGHT, chance=False)]
        rows.append(row)
    return "\n".join(rows_of(pd.DataFrame(rows, columns=columns)))


def _shown(of_null: _Frame, share: str, *, chance: bool = True, tested: bool = False) -> str:
    """A share with its interval, what chance would give and the p-value; none where the model has no such row."""
    if share not in of_null.index:
        return "none"
    one = of_null.loc[share]
    interval = xr.DataArray([one["lower"], one["upper"]], dims="ci_bound", coords={"ci_bound": ["lower", "upper"]})
    beside = [percent(one["by chance"])] * chance + [p_value(one["p after Holm"])] * tested
    return percent(one["mean"], interval) + (f" ({'; '.join(beside)})" if beside else "")


def _figure(shares: _Frame, found: Sequence[_Known]) -> Any:
    rows = shares[shares["share"] == _SEEN]
    bounds = np.stack([rows["lower"], rows["upper"]])
    data = xr.Dataset(
        {
            "mean": ("row", rows["mean"].to_numpy()),
            "interval": (("ci_bound", "row"), bounds, {"long_name": "95% percentile bootstrap interval over image_id"}),
            "expected": ("row", rows["by chance"].to_numpy()),
            "n": ("row", rows["n"].to_numpy()),
        },
        coords={
            "row": [f"{model}, {order}, {null}" for model, order, null in zip(rows["model"], rows["order"], rows["null"], strict=True)],
            "group": ("row", ["wrong"] * len(rows)),
            "ci_bound": ["lower", "upper"],
        },
    )
    traced = next(known["trace"] for known in found if known["artefact"] == CENTRAL)
    kept = {name: traced[name] for name in ("benchmark", "split", "samples", "versions") if name in traced}
    models = ", ".join(dict.fromkeys(rows["model"]))
    data.attrs = {**kept, "model": models, "revision": "see run.json", "prompt_order": "image-first and question-first"}
    text = "Share of wrong answers whose evidence the profiled layers see, by model, prompt order and null."
    return plots.shares(data, "Wrong, and yet seen", text)


def _beside(entries: Sequence[_Known]) -> list[str]:
    """The paper's numbers and ours of each model, a row a quantity; then why some are not there."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for entry in entries:
        for what, ours, theirs, of, where, source in entry["beside"]:
            rows.setdefault((what, theirs, of, where, source), {})[", ".join(entry["models"])] = ours
    lines: list[str] = []
    if rows:
        who = list(dict.fromkeys(model for ours in rows.values() for model in ours))
        columns = ["quantity", "the paper's", "of", "where", "source", *who]
        table = [[*key, *(ours.get(model, "") for model in who)] for key, ours in rows.items()]
        lines += [*rows_of(pd.DataFrame(table, columns=columns)), ""]
    for apart in dict.fromkeys(entry["apart"] for entry in entries if entry["apart"]):
        lines += [cell(apart), ""]
    return lines


def _names(found: Sequence[_Known]) -> list[str]:
    """Artefacts that are there, in the order of the paper."""
    there = {str(known["artefact"]) for known in found}
    known = [artefact.name for artefact in PAPER.artefacts if artefact.name in there]
    return known + sorted(there - set(known))


def _refuse_missing(found: Sequence[_Known], models: Sequence[str]) -> None:
    of_model = {model: {known["artefact"] for known in found if known["models"] == [model]} for model in models}
    every = set().union(*of_model.values())
    missing = [f"{model}: {', '.join(sorted(every - mine))}" for model, mine in of_model.items() if mine != every]
    if missing:
        raise InterpError(f"Not every model has every artefact ({'; '.join(missing)}); run interp reproduce --all for these.")


def _minutes(found: Sequence[_Known], model: str) -> float:
    return sum(float(known["seconds"]) for known in found if known["models"] == [model]) / 60


def _run(found: Sequence[_Known], models: Sequence[str]) -> dict[str, Any]:
    """Models with revisions, and of every artefact n, seconds and when it was made."""
    revisions = {one["model"]: one["revision"] for known in found for one in known["settings"]}
    made = {
        model: {
            known["artefact"]: {"n": known["n"], "seconds": known["seconds"], "made": known["made"]}
            for known in found
            if known["models"] == [model]
        }
        for model in models
    }
    versions = json.loads(next(known["trace"]["versions"] for known in found if "versions" in known["trace"]))
    return {"revisions": revisions, "artefacts": made, "versions": versions}


if __name__ == "__main__":
    cyclopts.run(main)
