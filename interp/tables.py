"""Findings as tables for a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import xarray as xr
from rich.table import Table
from rich.text import Text

from interp.analysis import Profile
from interp.findings import Compared, Findings

_WIDTH = 100  # a title is not broken before
_OUTCOMES = {"pass": Text("pass", "green"), "fail": Text("FAIL", "bold red"), "skip": Text("skip", "yellow")}


def analysis_tables(found: Findings) -> list[Table]:
    """What was visible, right and wrong answers apart, and the disconnect where there is one."""
    tables = [visibility_table(found.visibility)]
    if found.measures:
        tables.append(correctness_table(found.measures, found.stratified))
    if found.disconnect is not None:
        tables += [seen_table(found.disconnect), cells_table(found.disconnect), outcome_table(found.disconnect)]
    if found.readable is not None:
        tables.append(probe_table(found.readable))
    return tables


def profile_table(profile: Profile) -> Table:
    """AUROC by layer, the visual-grounding layers marked."""
    about = profile.identity
    table = _table(
        f"Profile: AUROC of each layer's attention on the evidence ({about['model']}, {about['benchmark']} {about['split']}, "
        f"n = {len(profile.sample_ids) - profile.n_undefined})",
        "layer",
        "AUROC",
        "",
    )
    for layer, value in enumerate(profile.auroc):
        table.add_row(str(layer), _number(value), "visual grounding" if layer in profile.layers else "")
    return table


def visibility_table(seeable: xr.Dataset) -> Table:
    """Counts and shares of what preprocessing leaves of the evidence."""
    table = _table(f"What the model can see of the evidence ({_about(seeable)})", "evidence", "samples", "share", "95 % interval")
    for name in seeable["visibility"].values:
        part = seeable.sel(visibility=name)
        table.add_row(str(name).replace("_", " "), str(int(part["count"])), _number(part["share"]), _interval(part["interval"]))
    return table


def correctness_table(measures: Mapping[str, xr.Dataset], stratified: Mapping[str, xr.Dataset]) -> Table:
    """Means of right and of wrong answers, their difference, and its permutation test, also within strata."""
    first = next(iter(measures.values()))
    n = " and ".join(f"{int(first['n'].sel(group=group))} {group}" for group in ("correct", "wrong"))
    columns = ["quantity", "correct", "wrong", "difference", "95 % interval", "p"] + (["p within strata"] if stratified else [])
    table = _table(f"Right and wrong answers apart ({_about(first)}: {n})", *columns)
    for name, part in measures.items():
        cells = [_number(part["mean"].sel(group="correct")), _number(part["mean"].sel(group="wrong")), _signed(part["difference"])]
        cells += [_interval(part["difference_interval"]), _p(part["p_value"])]
        table.add_row(name, *cells, *([_p(stratified[name]["p_value"])] if stratified else []))
    return table


def seen_table(result: xr.Dataset) -> Table:
    """Share of samples whose evidence is seen, by both nulls, beside what chance would give."""
    table = _table(
        f"Seen: evidence ranked above other places in the same picture ({_about(result)})",
        "null",
        "answers",
        "n",
        "seen",
        "95 % interval",
        "by chance",
    )
    for null in result["null"].values:
        for group in result["group"].values:
            part = result.sel(null=null, group=group)
            mark = " *" if str(null) == result.attrs.get("headline") else ""
            table.add_row(
                f"{null}{mark}",
                str(group),
                str(int(part["seen_n"])),
                _number(part["seen_share"]),
                _interval(part["seen_interval"]),
                _number(part["seen_expected"]),
            )
    table.caption = "* the null to quote"
    table.caption_justify = "left"
    return table


def cells_table(result: xr.Dataset) -> Table:
    """Counts of seen x readable x correct under the null to quote."""
    null = str(result.attrs.get("headline", result["null"].values[0]))
    part = result["count"].sel(null=null)
    table = _table(
        f"Disconnect: visible samples by seen, readable, correct (null: {null}, n = {int(result['n'].sel(null=null))})",
        "evidence",
        "",
        "correct",
        "wrong",
    )
    for seen in part["seen"].values:
        for reads in part["readable"].values:
            cells = part.sel(seen=seen, readable=reads)
            table.add_row(str(seen), _reads(str(reads)), *(str(int(v)) for v in cells.transpose("correct").values))
    return table


def outcome_table(result: xr.Dataset) -> Table:
    """Why answers are wrong, as shares of the wrong ones."""
    null = str(result.attrs.get("headline", result["null"].values[0]))
    n = int(result["seen_n"].sel(null=null, group="wrong"))
    table = _table(f"Wrong answers (null: {null}, n = {n})", "", "share", "95 % interval", "if nobody saw")
    for outcome in result["outcome"].values:
        part = result.sel(null=null, outcome=outcome)
        table.add_row(str(outcome), _number(part["outcome_share"]), _interval(part["outcome_interval"]), _number(part["outcome_expected"]))
    return table


def probe_table(readable: xr.Dataset) -> Table:
    """How well the probe reads the evidence, and the same probe the distractors."""
    table = _table("Probe: the answer read off tokens as they enter the decoder", "tokens of", "n", "accuracy", "95 % interval")
    for name in readable["region_set"].values:
        part = readable.sel(region_set=name)
        table.add_row(str(name), str(int(part["n"])), _number(part["accuracy"]), _interval(part["interval"]))
    return table


def method_tables(compared: Compared, score: str = "exact match") -> list[Table]:
    """Every method with its interval and its paired differences, and scores by how well attention found the evidence."""
    scores = compared.scores
    absent = json.loads(scores.attrs.get("not_applicable", "{}"))
    first = _table(f"Methods side by side ({_about(scores)})", "method", "n", score, "95 % interval")
    for method in scores["method"].values:
        part = scores.sel({"method": method})
        shown = "not applicable" if str(method) in absent else _number(part["mean"])
        first.add_row(str(method), str(int(part["n"])), shown, _interval(part["interval"]))
    quality = [_quality_table(compared.quality, compared.effect)] if compared.quality is not None else []
    return [first, *(_paired_table(each, score) for each in compared.against), *quality]


def certificate_table(checks: xr.Dataset) -> Table:
    """Pass or fail of every check of a checkpoint, with what was found, and below it why not."""
    table = Table(title=f"Certificate of {checks.attrs['model']} ({checks.attrs['family']}, {checks.attrs['dtype']})", title_justify="left")
    for column in ("check", "", "found"):
        table.add_column(column)
    for name in checks["check"].values:
        part = checks.sel(check=name)
        said = [Text(text) for variable in ("found", "reason") if (text := str(part[variable].values))]
        table.add_row(str(name), _OUTCOMES[str(part["outcome"].values)], Text("\n").join(said))
    return table


def _paired_table(each: xr.Dataset, score: str) -> Table:
    columns = ("method", "difference", "95 % interval", "wins", "losses", "McNemar p", "sign-flip p")
    table = _table(f"Paired difference in {score} from {each.attrs['against']}, p after Holm", *columns)
    for method in each["method"].values:
        part = each.sel({"method": method})
        cells = [_signed(part["difference"]), _interval(part["interval"]), str(int(part["wins"])), str(int(part["losses"]))]
        table.add_row(str(method), *cells, _p(part["p_holm"]), _p(part["p_holm_permutation"]))
    table.caption = "Where samples share pictures read the sign-flip test: it flips whole pictures, McNemar takes samples for independent."
    table.caption_justify = "left"
    return table


def _quality_table(quality: xr.Dataset, effect: xr.Dataset | None) -> Table:
    names = [str(name) for name in quality["method"].values]
    extra = ["vea less inst", "95 % interval"] if effect is not None else []
    table = _table("Exact match by the profiled map's AUROC", "AUROC", "n", *names, *extra)
    for label in quality["bin"].values:
        part = quality.sel(bin=label)
        cells = [str(label), str(int(part["n"].max())), *(_number(part["mean"].sel({"method": name})) for name in names)]
        if effect is not None:
            cells += [_signed(effect["mean"].sel(bin=label)), _interval(effect["interval"].sel(bin=label))]
        table.add_row(*cells)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", min_width=min(len(title), _WIDTH))
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k == 0 else "right")
    return table


def _about(ds: xr.Dataset) -> str:
    return f"{ds.attrs.get('model', '?')}, {ds.attrs.get('benchmark', '?')} {ds.attrs.get('split', '')}".strip()


def _reads(level: str) -> str:
    return "" if level == "unknown" else level


def _number(value: xr.DataArray | float) -> str:
    number = float(value)
    return "-" if np.isnan(number) else f"{number:.3f}"


def _signed(value: xr.DataArray) -> str:
    number = float(value)
    return "-" if np.isnan(number) else f"{number:+.3f}"


def _interval(bounds: xr.DataArray) -> str:
    lower, upper = (float(bounds.sel(ci_bound=name)) for name in ("lower", "upper"))
    return "-" if np.isnan(lower) else f"{lower:.3f} to {upper:.3f}"


def _p(value: xr.DataArray) -> str:
    number = float(value)
    return "-" if np.isnan(number) else "< 0.001" if number < 0.001 else f"{number:.3f}"
