"""Models side by side: every number of the table is the one its model's own findings hold, and the words follow the numbers."""

from __future__ import annotations

import functools
import json
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from experiments import families
from experiments.readme import families_table
from interp import plots
from interp.across import EFFECTS, across, markdown, sentences
from interp.analysis import profile_layers
from interp.demo import SideBySide, other_order
from interp.errors import InterpError
from interp.findings import Compared, Findings, analyse, compare_methods
from interp.loading import shipped
from interp.testing import planted, planted_answers

GAINS = {"inst": 0.05, "vea": 0.35, "vea-shifted": -0.1, "vea-uniform": 0.0, "vea-boxes": 0.3}


@functools.cache
def material(seed: int, n: int) -> tuple[xr.Dataset, xr.Dataset]:
    """A planted trace whose last answers show nothing (`knob_absent`), and answers to the same questions."""
    ds = planted(n, seed=seed)
    answers = planted_answers(n, GAINS, seed=seed)
    return ds, answers.assign_coords(knob_absent=ds["knob_absent"]).assign_attrs({**ds.attrs, "seed": 0})


@functools.cache
def one(seed: int, n: int, reading: bool = True) -> tuple[Findings, Compared]:
    ds, answers = material(seed, n)
    profile = replace(profile_layers(planted(40, seed=seed + 100)), image_ids=())
    reads = xr.Dataset({"readable": ds["planted_readable"].astype(float)})
    return analyse(ds, profile, reads if reading else None), compare_methods(answers)


@pytest.fixture(scope="module")
def table() -> xr.Dataset:
    return across({"demo/first": one(1, 60), "second": one(2, 50)})


def at(table: xr.Dataset, model: str, quantity: str, part: str = "mean") -> np.ndarray:
    return table[part].sel(model=model, quantity=quantity).values


@pytest.mark.parametrize(("model", "seed", "n"), [("demo/first", 1, 60), ("second", 2, 50)])
def test_exact_match_leaves_out_what_shows_no_answer(table: xr.Dataset, model: str, seed: int, n: int) -> None:
    ds, answers = material(seed, n)
    right = [r for r, absent in zip(answers["exact_match"].values[0], ds["knob_absent"].values, strict=True) if not absent]
    assert 0 < len(right) < n
    assert at(table, model, "exact match, answerable") == pytest.approx(sum(right) / len(right))
    assert at(table, model, "exact match, answerable", "n") == len(right)
    low, high = at(table, model, "exact match, answerable", "interval")
    assert low < sum(right) / len(right) < high and np.isnan(at(table, model, "exact match, answerable", "expected"))


@pytest.mark.parametrize(("model", "seed", "n"), [("demo/first", 1, 60), ("second", 2, 50)])
def test_means_of_right_and_wrong_are_the_findings_own(table: xr.Dataset, model: str, seed: int, n: int) -> None:
    measures = one(seed, n)[0].measures
    for name, chance in (
        ("AUROC of the profiled map", 0.5),
        ("relative attention on evidence", np.nan),
        ("relative attention off evidence", np.nan),
    ):
        for group in ("correct", "wrong"):
            own = measures[name].sel(group=group)
            for part in ("mean", "interval", "n"):
                np.testing.assert_array_equal(at(table, model, f"{name}, {group}", part), own[part].values)
            np.testing.assert_equal(float(at(table, model, f"{name}, {group}", "expected")), chance)


@pytest.mark.parametrize(("model", "seed", "n"), [("demo/first", 1, 60), ("second", 2, 50)])
@pytest.mark.parametrize("null", ["placed", "distractor"])
def test_shares_of_the_wrong_stand_beside_chance(table: xr.Dataset, model: str, seed: int, n: int, null: str) -> None:
    own = one(seed, n)[0].disconnect
    assert own is not None
    cells = own["count"].sel(null=null, correct="wrong")
    wrong, seen = int(cells.sum()), int(cells.sel(seen="seen").sum())
    assert at(table, model, f"seen, wrong, {null}") == pytest.approx(seen / wrong)
    assert at(table, model, f"seeing but not believing, {null}") == pytest.approx(int(cells.sel(seen="seen", readable="readable")) / wrong)
    for quantity in (f"seen, wrong, {null}", f"seeing but not believing, {null}"):
        assert at(table, model, quantity, "n") == wrong
        low, high = at(table, model, quantity, "interval")
        assert low < at(table, model, quantity) < high
    expected = float(own["seen_expected"].sel(null=null, group="wrong"))
    assert at(table, model, f"seen, wrong, {null}", "expected") == expected
    assert at(table, model, f"seen, wrong, {null}", "excess") == pytest.approx(seen / wrong - expected)
    nobody = float(own["outcome_expected"].sel(null=null, outcome="seeing but not believing"))
    assert at(table, model, f"seeing but not believing, {null}", "expected") == nobody < expected


@pytest.mark.parametrize(("model", "seed", "n"), [("demo/first", 1, 60), ("second", 2, 50)])
def test_effects_are_paired_and_adjusted_within_the_model(table: xr.Dataset, model: str, seed: int, n: int) -> None:
    _, answers = material(seed, n)
    scores = dict(zip(map(str, answers["method"].values), answers["exact_match"].values, strict=True))
    raw = []
    for method, against in EFFECTS:
        assert at(table, model, f"{method} less {against}") == pytest.approx((scores[method] - scores[against]).mean())
        assert at(table, model, f"{method} less {against}", "expected") == 0
        own = next(each for each in one(seed, n)[1].against if each.attrs["against"] == against).sel({"method": method})
        raw.append(float(own["p_permutation"]))
    # Holm, written out: the k-th smallest of m times m - k, never below one before it
    order, worst, adjusted = sorted(range(len(raw)), key=raw.__getitem__), 0.0, {}
    for k, place in enumerate(order):
        worst = min(1.0, max(worst, raw[place] * (len(raw) - k)))
        adjusted[EFFECTS[place]] = worst
    for (method, against), p in adjusted.items():
        assert at(table, model, f"{method} less {against}", "p") == pytest.approx(p)
    assert len(set(adjusted.values())) > 2
    tested = table["p"].notnull()
    assert int(tested.sum()) == 2 * len(EFFECTS) and bool(tested.sel(quantity=[f"{m} less {a}" for m, a in EFFECTS]).all())


def test_it_says_what_it_is_of(table: xr.Dataset) -> None:
    profile = one(1, 60)[0].profile
    assert profile is not None
    assert json.loads(table.attrs["profiled_layers"])["demo/first"] == list(profile.layers)
    assert json.loads(table.attrs["n"]) == {"demo/first": 60, "second": 50}
    assert set(json.loads(table.attrs["revisions"])) == {"demo/first", "second"}
    assert (table.attrs["benchmark"], table.attrs["split"], table.attrs["seed"]) == ("planted", "test", 0)
    assert "no evidence about released checkpoints" in table.attrs["note"]
    assert table["mean"].dims == ("model", "quantity") and table["interval"].dims == ("model", "quantity", "ci_bound")


def test_markdown_has_a_row_a_model_and_every_number_its_interval(table: xr.Dataset) -> None:
    text = markdown(table, {"exact match elsewhere": {"second": "as it was"}})
    head, _, first, second, _, about = text.splitlines()
    assert len({line.count("|") for line in (head, first, second)}) == 1
    assert first.startswith("| demo/first |") and "| as it was |" in second and "|  |" in first
    low, high = at(table, "second", "vea less inst", "interval")
    assert f"{at(table, 'second', 'vea less inst'):+.2f} [{low:+.2f}, {high:+.2f}]" in second
    share, chance = (at(table, "demo/first", "seen, wrong, placed", part) for part in ("mean", "expected"))
    assert f"vea-uniform {at(table, 'second', 'vea-uniform less inst'):+.2f} [" in second and second.count("p = ") == 4
    assert re.search(r"\| [0-9, ]+ \(of 0 to [0-9]+\) \|", first)
    assert f"placed {share:.2f} [" in first and f"({chance:.2f}), n = " in first
    assert "planted, split test" in about and "n = 60 / 50" in about and "no evidence about released checkpoints" in about


def shifted(table: xr.Dataset, quantity: str, **parts: float | tuple[float, float]) -> str:
    """What is said of the first model where the numbers of one quantity are others."""
    changed = table.copy(deep=True)
    for part, value in parts.items():
        changed[part].loc[{"model": "demo/first", "quantity": quantity}] = np.array(value)
    return sentences(changed)[0]


def test_words_follow_the_numbers_in_every_direction(table: xr.Dataset) -> None:
    quantity = "seen, wrong, distractor"
    assert "distractor boxes the evidence of wrong answers is seen beyond chance" in shifted(table, quantity, excess_interval=(0.01, 0.2))
    assert "distractor boxes the evidence of wrong answers is not seen beyond chance" in shifted(
        table, quantity, excess_interval=(-0.01, 0.2)
    )
    assert "distractor boxes the evidence of wrong answers is seen less than by chance" in shifted(
        table, quantity, excess_interval=(-0.2, -0.1)
    )
    assert "makes a gain in exact match" in shifted(table, "vea less inst", mean=0.1, p=0.01)
    assert "makes a loss in exact match" in shifted(table, "vea less inst", mean=-0.1, p=0.01)
    assert "makes no clear change in exact match" in shifted(table, "vea less inst", mean=-0.1, p=0.2)
    clear = shifted(table, "vea-uniform less inst", mean=0.04, interval=(0.02, 0.06), p=0.004)
    assert "vea-uniform +0.04 [+0.02, +0.06], p = 0.004: clear" in clear  # an effect of a control is not passed over
    assert ": clear" not in shifted(table, "vea-uniform less inst", mean=0.04, interval=(0.02, 0.06), p=0.06)
    said = sentences(table)
    assert [each.partition(":")[0] for each in said] == ["demo/first", "second"]
    assert f"n = {at(table, 'second', 'seen, wrong, placed', 'n')}" in said[1] and "if nobody saw" in said[1]


def test_what_was_not_asked_is_missing_and_said() -> None:
    ds, answers = material(1, 60)
    bare = analyse(ds), compare_methods(answers.sel({"method": ["base"]}))
    unread = one(1, 60, reading=False)
    table = across({"bare": bare, "unread": unread, "whole": one(1, 60)})
    assert np.isfinite(at(table, "bare", "exact match, answerable"))
    for quantity in ("AUROC of the profiled map, wrong", "seen, wrong, placed", "seeing but not believing, placed", "vea less inst"):
        assert np.isnan(at(table, "bare", quantity)) and at(table, "bare", quantity, "n") == 0
    assert np.isnan(at(table, "unread", "seeing but not believing, placed")) and np.isfinite(at(table, "unread", "seen, wrong, placed"))
    assert "no wrong answer could be judged" in sentences(table)[0] and "readable" not in sentences(table)[1]
    assert "| none |" in markdown(table)
    alone: Any = plots.across_models(table.sel(model=["bare"]))
    assert "Not known of any model: AUROC of the profiled map" in str(alone.layout.annotations[-1].text).replace("<br>", " ")


def test_the_figure_shows_the_table(table: xr.Dataset) -> None:
    figure: Any = plots.across_models(table)
    drawn = {trace.name: trace for trace in figure.data}
    for name, quantity in {
        "wrong answers": "AUROC of the profiled map, wrong",
        "against distractor boxes": "seen, wrong, distractor",
        "vea-shifted": "vea-shifted less inst",
    }.items():
        np.testing.assert_allclose(drawn[name].x, table["mean"].sel(quantity=quantity))
        low, high = table["interval"].sel(quantity=quantity).values.T
        np.testing.assert_allclose(drawn[name].error_x.array, high - table["mean"].sel(quantity=quantity))
        np.testing.assert_allclose(drawn[name].error_x.arrayminus, table["mean"].sel(quantity=quantity) - low)
    chance = [trace for trace in figure.data if trace.name == "by chance"]
    np.testing.assert_allclose(chance[0].x, table["expected"].sel(quantity="seen, wrong, placed"))
    assert list(figure.layout.yaxis.ticktext) == ["demo/first", "second"]


def test_what_cannot_stand_side_by_side_is_refused(table: xr.Dataset) -> None:
    found, compared = one(1, 60)
    with pytest.raises(InterpError, match="No model"):
        across({})
    other = replace(found, shift=found.shift.assign_attrs(prompt_order="question-first"))
    with pytest.raises(InterpError, match="'b' was asked with prompt_order 'question-first'"):
        across({"a": (found, compared), "b": (other, compared)})
    foreign = replace(compared, scores=compared.scores.assign_attrs(model="another"))
    with pytest.raises(InterpError, match="'b' are of model 'planted', but the answers of 'another'"):
        across({"a": (found, compared), "b": (found, foreign)})
    with pytest.raises(InterpError, match="'vea less inst'"):
        plots.across_models(table.drop_sel(quantity="vea less inst"))
    with pytest.raises(InterpError, match="no number"):
        plots.across_models(table.assign(mean=table["mean"] * np.nan))


# ------------------------------------------------------------------------------------------------------ the experiment


@pytest.mark.parametrize("failed", [{}, {"third": "It is broken; mend it."}], ids=["all", "all but one"])
def test_the_experiment_keeps_table_words_and_what_was_run(
    table: xr.Dataset, failed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, results = tmp_path / "out", tmp_path / "results"
    results.mkdir()
    (results / "across_models.png").write_text("of an earlier run")
    (results / "notes.txt").write_text("mine")
    beside = {"elsewhere": {"second": "as it was"}}

    def ran(models: list[str] | None, n: int, folder: Path, **_: object) -> SideBySide:
        folder.mkdir()
        for name in ("across_models.csv", "across_models.html", "plotly.min.js"):
            (folder / name).write_text(name)
        seconds = {"demo/first": 60.0, "second": 30.0}
        return SideBySide(table, sentences(table), seconds, [folder / "across_models.html"], [], beside, failed)

    monkeypatch.setattr("experiments.families.run_all", ran)
    with pytest.raises(InterpError, match=r"third \(It is broken; mend it\)") if failed else nullcontext():
        families.main(limit=60, models=["demo/first", "second"], out=out, results=results)
    written = {"summary.md", "table.csv", "across_models.html", "plotly.min.js", "run.json"}
    assert {path.name for path in results.iterdir()} == written | {"notes.txt"}
    kept = json.loads((results / "run.json").read_text())
    assert kept["seconds"] == 90 and kept["models"]["second"]["n"] == 50 and kept["machine"]["cores"] and kept["time"]
    assert kept["failed"] == failed
    text = (results / "summary.md").read_text()
    assert "2 models" in text and "n = 60 each" in text and "Time 1.5 min" in text and "| as it was |" in text
    assert ("Missing: third, which could not be run. It is broken; mend it." in families_table(results)) is bool(failed)
    assert all(f"- {sentence}" in text for sentence in sentences(table))
    shown = families_table(results)
    assert "| demo/first |" in shown and "Time 1.5 min" in shown and sentences(table)[0] not in shown and "#" not in shown
    assert "python -m experiments.families" in families_table(tmp_path)


def test_the_other_prompt_order_is_the_cards_own(tmp_path: Path) -> None:
    alone = {"mean": 0.8125, "lower": None, "upper": None, "n": 1}
    grounding = {
        "correct": {"auroc of profiled map": alone},
        "wrong": {"auroc of profiled map": {"mean": None, "lower": None, "upper": None, "n": 0}},
    }
    answerable = {"mean": 0.641, "lower": 0.587, "upper": 0.695, "n": 440}
    orders = {
        "image-first": {"answers": {"answerable": {**answerable, "mean": 0.9}}},
        "question-first": {"answers": {"answerable": answerable}, "grounding": grounding},
    }
    other = {"split": "validation", "orders": {"question-first": {"answers": {"answerable": {**answerable, "mean": 0.1}}}}}
    (tmp_path / "card.json").write_text(json.dumps({"assessments": [other, {"split": "test", "orders": orders}]}))
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "card.json").write_text("{}")
    name = str(tmp_path)
    assert other_order([name, "org/hub", f"{name}/bare", "demo/nobody"]) == {
        "exact match, question-first (model card)": {name: "0.64 [0.59, 0.69], n = 440"},
        "AUROC of the profiled map, question-first (model card)": {name: "correct 0.81 [no interval], n = 1<br>wrong none"},
    }
    assert all(set(texts) == set(shipped()) for texts in other_order([*shipped(), "org/hub"]).values())
