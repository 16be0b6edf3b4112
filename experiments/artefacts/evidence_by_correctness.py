"""Fig. 4: attention on and beside the evidence by layer, right and wrong answers apart, in both prompt orders."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from experiments import paper
from experiments.artefacts.context import ORDERS, Context, Order
from experiments.artefacts.interface import OTHERS, Artefact, Result, beside_in
from experiments.artefacts.words import number, p_value
from interp import plots
from interp.analysis import by_correctness, holm, rapt

SECTIONS = ("evidence", "non-evidence")


def split(context: Context, order: Order) -> xr.Dataset:
    """Relative attention per token by correctness: (group, layer, section) with differences and their p-values."""
    ds = context.trace(order=order)
    return by_correctness(rapt(ds).sel(section=list(SECTIONS)), ds, seed=context.seed)


def excess(context: Context, order: Order) -> xr.Dataset:
    """Evidence less non-evidence, mean over the profiled layers, by correctness."""
    ds = context.trace(order=order)
    relative = rapt(ds).sel(layer=list(context.profile(order).layers)).mean("layer")
    gained = relative.sel(section="evidence", drop=True) - relative.sel(section="non-evidence", drop=True)
    return by_correctness(gained, ds, seed=context.seed)


def compute(context: Context) -> Result:
    """Both orders in one table, Holm over all its tests."""
    found = {order: split(context, order) for order in ORDERS}
    gained = {order: excess(context, order) for order in ORDERS}
    rows = [_row(order, one, layer, section) for order, one in found.items() for layer in one["layer"].values for section in SECTIONS]
    rows += [_gained(order, one) for order, one in gained.items()]
    table = pd.DataFrame(rows)
    table["p after Holm"] = holm(table["p"].to_numpy(dtype=float))
    last = table.iloc[-len(ORDERS) :]["p after Holm"].to_numpy()
    tests = int(np.isfinite(table["p"].to_numpy(dtype=float)).sum())
    said = "; ".join(_said(order, gained[order], float(p)) for order, p in zip(ORDERS, last, strict=True))
    sentence = f"{said} (p after Holm over the {tests} tests of the table)."
    beside, apart = beside_in(ORDERS[0], (_short(gained[ORDERS[0]]), paper.WRONG_STILL_SEES))
    data = xr.concat(list(found.values()), dim=xr.DataArray(list(ORDERS), dims="order", name="order"), combine_attrs="drop_conflicts")
    extra = xr.concat(list(gained.values()), dim=data["order"], combine_attrs="drop_conflicts").rename(
        {name: f"excess_{name}" for name in next(iter(gained.values())).data_vars}
    )
    other = next(order for order in ORDERS if order != context.order)
    figures = {f"figure_{other}": plots.evidence_by_correctness(found[other])}
    n = ", ".join(f"{order} {_counts(found[order])}" for order in ORDERS)
    figure = plots.evidence_by_correctness(found[context.order])
    return Result(table, figure, xr.merge([data, extra], combine_attrs="override"), sentence, beside, apart or OTHERS, figures, n)


def _counts(found: xr.Dataset) -> str:
    counts = {group: int(found["n"].sel(group=group).max()) for group in ("correct", "wrong")}
    return f"{sum(counts.values())} ({', '.join(f'{count} {group}' for group, count in counts.items())})"


def _row(order: str, found: xr.Dataset, layer: int, section: str) -> dict[str, object]:
    return _cells({"order": order, "layer": int(layer), "section": section}, found.sel(layer=layer, section=section))


def _gained(order: str, found: xr.Dataset) -> dict[str, object]:
    return _cells({"order": order, "layer": "profiled", "section": "evidence less non-evidence"}, found)


def _cells(row: dict[str, object], one: xr.Dataset) -> dict[str, object]:
    for group in ("correct", "wrong"):
        low, high = one["interval"].sel(group=group).values.tolist()
        row |= {group: float(one["mean"].sel(group=group)), f"{group} lower": low, f"{group} upper": high}
        row[f"n {group}"] = int(one["n"].sel(group=group))
    low, high = one["difference_interval"].values.tolist()
    return row | {"difference": float(one["difference"]), "lower": low, "upper": high, "p": float(one["p_value"])}


def _said(order: str, one: xr.Dataset, p: float) -> str:
    parts = []
    for group in ("wrong", "correct"):
        low, high = one["interval"].sel(group=group).values
        where = "above" if low > 0 else "below" if high < 0 else "not clearly apart from"
        mean = number(one["mean"].sel(group=group), one["interval"].sel(group=group))
        parts.append(f"{group} answers {where if np.isfinite(low) else 'without an interval against'} that beside it ({mean})")
    difference = number(one["difference"], one["difference_interval"])
    said = f"{order}: relative attention on the evidence in the profiled layers is in {', in '.join(parts)}"
    return f"{said}; correct less wrong {difference}, {p_value(p)}"


def _short(one: xr.Dataset) -> str:
    parts = [f"{group} {number(one['mean'].sel(group=group), one['interval'].sel(group=group))}" for group in ("wrong", "correct")]
    return f"evidence less non-evidence, profiled layers: {', '.join(parts)}"


ARTEFACT = Artefact(
    "fig4",
    "Attention on and beside the evidence by correctness (paper, Fig. 4)",
    "Do wrong answers look at the evidence too, and less than right ones?",
    compute,
)
