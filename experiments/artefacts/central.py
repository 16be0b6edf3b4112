"""The central finding: seen, readable and wrong, against both nulls and in both prompt orders, in whatever direction it comes out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from experiments.artefacts.context import ORDERS, Context, Order
from experiments.artefacts.interface import Artefact, Result
from experiments.artefacts.words import cells, p_value, percent
from interp import plots
from interp.analysis import disconnect, fates, holm
from interp.errors import InterpError

BELIEF = "seeing but not believing"


def compute(context: Context) -> Result:
    """The table seen x readable x correct for both orders and nulls, and whether wrong answers saw more often than chance would."""
    rows, points, tests = [], [], []
    found, why, figures = {}, {}, {}
    lost: list[dict[str, object]] = []
    for order in ORDERS:
        ds, profile, probes = context.trace(order=order), context.profile(order), context.probes(order)
        known = probes if isinstance(probes, tuple) else None
        result = disconnect(ds, profile, known[0] if known else None, seed=context.seed)
        found[order], why[order] = result, probes if isinstance(probes, str) else ""
        for null in (str(name) for name in result["null"].values if int(result["n"].sel(null=name))):
            labels = _rows(result.sel(null=null), order, null)
            tests.append((len(rows), float(result["seen_p"].sel(null=null, group=labels[0][1]))))
            for label, group, one in labels:
                rows.append(
                    {"order": order, "null": null, "share": label, **cells(one), "by chance": float(one["expected"]), "n": int(one["n"])}
                )
                points.append((f"{order}, {null}: {label}", group, one))
        if known:
            fate = fates(ds, profile, known[1], seed=context.seed)
            lost += _lost(fate, order)
            figures[f"fates_{order}"] = plots.fate_shares(fate, str(result.attrs["headline"]))
        figures[f"disconnect_{order}"] = plots.disconnect_table(result)
    adjusted = holm([p for _, p in tests])
    for (row, p), after in zip(tests, adjusted, strict=True):
        rows[row] |= {"p": p, "p after Holm": float(after)}
    keys = list(dict.fromkeys((str(row["order"]), str(row["null"])) for row in rows))
    p_of = {key: float(after) for key, after in zip(keys, adjusted, strict=True)}
    sentence = " ".join(_said(order, found[order], p_of, why[order]) for order in ORDERS)
    table = pd.DataFrame([*rows, *lost])
    main = _figure(context, points)
    data = xr.concat([_kept(found[order]) for order in ORDERS], dim=xr.DataArray(list(ORDERS), dims="order", name="order"), join="outer")
    data = data.assign_attrs({**found[ORDERS[0]].attrs, "prompt_order": " and ".join(ORDERS)})
    apart = "The paper shows curves and examples, and no share of samples that are seen, readable and wrong; none stands beside these."
    n = f"{len(context.samples())}, of which judged {', '.join(_judged(found[order], order) for order in ORDERS)}"
    return Result(table, main, data, sentence, (), apart, figures, n)


def _rows(one: xr.Dataset, order: Order, null: str) -> list[tuple[str, str, xr.Dataset]]:
    """Label, group and values of the shares of one null; the first is the one that is tested."""
    made = [
        (f"{group}, seen", group, _part(one, "seen", group)) for group in ("wrong", "correct") if int(one["seen_n"].sel(group=group)) > 0
    ]
    if not made:
        raise InterpError(f"No answer in {order} order can be judged against {null} boxes; take more samples.")
    known = {BELIEF: "seen and readable", "misread": "seen, not readable", "unseen": "unseen"}
    outcomes = [(name, label) for name, label in known.items() if np.isfinite(one["outcome_share"].sel(outcome=name))]
    return made + [(f"wrong, {label}", "wrong", _part(one, "outcome", name)) for name, label in outcomes]


def _part(one: xr.Dataset, kind: str, name: str) -> xr.Dataset:
    at = {"group": name} if kind == "seen" else {"outcome": name}
    n = one["seen_n"].sel(group=name if kind == "seen" else "wrong")
    parts = {"mean": one[f"{kind}_share"], "interval": one[f"{kind}_interval"], "expected": one[f"{kind}_expected"]}
    return xr.Dataset({**{key: v.sel(at).drop_attrs() for key, v in parts.items()}, "n": n.drop_attrs()}).drop_vars(
        [name for name in ("group", "outcome", "null") if name in one.coords], errors="ignore"
    )


def _said(order: Order, result: xr.Dataset, p_of: Mapping[tuple[str, str], float], unread: str) -> str:
    parts = []
    for null in (str(name) for name in result["null"].values if (order, str(name)) in p_of):
        one = result.sel(null=null)
        wrong, correct = (_part(one, "seen", group) for group in ("wrong", "correct"))
        p, more = p_of[order, null], float(one["seen_excess"].sel(group="wrong")) > 0
        than = ("more often than" if more else "less often than") if p < 0.05 else "not clearly more or less often than"
        text = (
            f"against {null} boxes the evidence of wrong answers is seen {than} chance ({percent(wrong['mean'], wrong['interval'])} "
            f"against {percent(wrong['expected'])}, n = {int(wrong['n'])}, {p_value(p)} after Holm; right answers "
            f"{percent(correct['mean'], correct['interval'])})"
        )
        belief = _part(one, "outcome", BELIEF)
        if np.isfinite(belief["mean"]):
            chance = percent(belief["expected"])
            text += f", and {percent(belief['mean'], belief['interval'])} of them are seen, readable and wrong (if nobody saw: {chance})"
        parts.append(text)
    ending = f" What was readable is not known: {unread}." if unread else ""
    return f"{order}: {'; '.join(parts)}.{ending}"


def _figure(context: Context, points: list[tuple[str, str, xr.Dataset]]) -> go.Figure:
    labels, groups, parts = zip(*points, strict=True)
    found = xr.concat(list(parts), dim=xr.DataArray(list(labels), dims="row", name="row")).assign_coords(group=("row", list(groups)))
    found["interval"].attrs = {"long_name": "95% percentile bootstrap interval over image_id"}
    found = found.assign_attrs({**context.trace().attrs, "prompt_order": " and ".join(ORDERS)})
    return plots.shares(found, "Seen, readable and wrong, by prompt order and null", "Blue: right answers, orange: wrong ones.")


def _lost(fate: xr.Dataset, order: Order) -> list[dict[str, object]]:
    """Where wrong answers were lost, as rows of the table."""
    rows: list[dict[str, object]] = []
    for null in (str(name) for name in fate["null"].values if int(fate["n"].sel(null=name, group="all"))):
        for name in fate["fate"].values:
            one = fate.sel(null=null, group="all", fate=name)
            low, high = one["interval"].values.tolist()
            row: dict[str, object] = {"order": order, "null": null, "share": f"wrong, lost: {name}", "mean": float(one["share"])}
            rows.append({**row, "lower": low, "upper": high, "n": int(one["n"])})
    return rows


def _kept(result: xr.Dataset) -> xr.Dataset:
    return result.drop_attrs(deep=False)


def _judged(result: xr.Dataset, order: Order) -> str:
    counts = ", ".join(f"{int(result['n'].sel(null=null))} ({null})" for null in result["null"].values)
    return f"{order} {counts}"


ARTEFACT = Artefact(
    "central",
    "The central finding: seen, readable and wrong",
    "Is the evidence of wrong answers seen more often than chance, and could it have been read? Both nulls, both prompt orders.",
    compute,
)
