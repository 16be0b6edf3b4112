"""Artefacts that only watch a model, on the one that ships with the package and a dozen samples; their numbers computed another way."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from drawings import shared, shift, traced
from sklearn.metrics import roc_auc_score

import interp
from experiments import paper
from experiments.artefacts import PAPER, attention_shift
from experiments.artefacts.context import ORDERS, Context
from experiments.artefacts.interface import STATEMENT
from experiments.artefacts.layer_maps import over_layers
from experiments.artefacts.profile_table import stability
from experiments.artefacts.words import number, percent, share
from interp import plots
from interp.analysis import disconnect
from interp.errors import InterpError
from interp.reproduce import Reproduced, ReproduceSettings, reproduce
from interp.testing import traces

N = 12
MADE = ("central", "fig1", "fig2", "fig3", "fig4", "fig5", "fig8", "fig9", "fig10", "profile-table", "auroc-below-half")


class Run:
    """One run of all artefacts: what it said, and how often each store was traced."""

    def __init__(self, out: Path) -> None:
        self.out, self.settings = out, ReproduceSettings(out=out, limit=N)
        self.traced: Counter[str] = Counter()
        self.done: Reproduced = reproduce(MADE, self.settings)
        self.context = Context("demo/llava", self.settings, progress=False)
        self.context.close()  # what is traced is opened without the model

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.out / name / "demo--llava" / "table.csv")

    def data(self, name: str) -> xr.Dataset:
        return xr.open_zarr(self.out / name / "demo--llava" / "data.zarr", consolidated=False)

    def known(self, name: str) -> dict[str, Any]:
        return json.loads((self.out / name / "demo--llava" / "provenance.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    counts: Counter[str] = Counter()
    original = interp.trace

    def counted(*arguments: Any, store: Path, **options: Any) -> xr.Dataset:
        counts[store.name] += 1
        return original(*arguments, store=store, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.plots.files.BROWSERS", ())
        patch.setattr("experiments.artefacts.context.interp.trace", counted, raising=False)
        found = Run(tmp_path_factory.mktemp("reproduce"))
    found.traced = counts
    yield found


def profiled(context: Context, order: Any) -> tuple[xr.Dataset, list[float]]:
    """A trace, and of each sample scikit-learn's AUROC of the mean attention over the profiled layers and all heads."""
    ds = context.trace(order=order)
    values = []
    for k in range(ds.sizes["sample"]):
        rows = ds["attention"].values[k][list(context.profile(order).layers)].astype(float)
        share = ds["coverage"].values[k]
        keep = np.isfinite(share)
        values.append(roc_auc_score(share[keep] > 0, rows.mean(axis=(0, 1))[keep]) if (share[keep] > 0).any() else np.nan)
    return ds, values


def test_every_artefact_is_there_and_says_something(run: Run) -> None:
    assert run.done.failed == []
    index = (run.out / "index.html").read_text()
    for artefact in (each for each in PAPER.artefacts if each.name in MADE):
        known = run.known(artefact.name)
        assert f'<h2 id="{artefact.name}">' in index and known["sentence"].endswith(".") and known["n"]
        assert known["beside"] or known["apart"]  # ours beside the paper's, or why not
        assert (run.out / artefact.name / "demo--llava" / "figure.html").stat().st_size > 5000
        assert "nan" not in known["sentence"].lower()
        assert known["settings"][0]["revision"].startswith("sha256:")
    assert STATEMENT in index


def test_no_forward_pass_is_made_twice(run: Run) -> None:
    names = {f"trace-{part}-{order}-{n}.zarr" for part, n in (("judged", N), ("profile", 20)) for order in ORDERS}
    assert dict(run.traced) == dict.fromkeys(names, 1)


def test_the_same_run_again_finds_all_finished(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.artefacts.context.interp.trace", None)
    again = reproduce(MADE, run.settings)
    assert all("(finished before)" in said for said in again.sentences) and len(again.sentences) == len(MADE)


def test_attention_shift_by_plain_loops(run: Run) -> None:
    ds, table = run.context.trace(), run.table("fig1")
    flags = dict(zip(ds["segment"].attrs["flag_meanings"].split(), ds["segment"].attrs["flag_values"], strict=True))
    for section, layer in product(("question", "image"), (0, 7)):
        ratios = []
        for k in range(N):
            row, part = ds["attention"].values[k, layer].mean(axis=0), ds["segment"].values[k]
            ratios.append(row[part == flags[section]].mean() / row[part >= 0].mean())
        found = table[(table["section"] == section) & (table["layer"] == layer)].iloc[0]
        assert found["mean"] == pytest.approx(np.mean(ratios), rel=1e-5) and found["lower"] <= found["mean"] <= found["upper"]
    assert paper.IMAGE_EARLY.source == "REV" and run.known("fig1")["beside"][0][2] == "about 0.2"


def test_failures_are_the_wrong_answers_to_what_could_be_seen(run: Run) -> None:
    ds, table = run.context.trace(), run.table("fig2").set_index("class")
    visible = (ds["visibility"].values.astype(object) == "visible") & ~ds["knob_absent"].values
    wrong = int((visible & (ds["exact_match"].values == 0)).sum())
    classes = ["false rejection", "hallucination", "partially correct"]
    counts, shares = (table.loc[classes, name].to_numpy() for name in ("count", "share of wrong"))
    assert counts.sum() == wrong and shares.sum() == pytest.approx(1)
    assert table.filter(like="kind:", axis=0)["count"].to_numpy().sum() == wrong
    assert run.known("fig2")["n"] == str(wrong)


def test_spread_is_one_where_attention_is_even(run: Run) -> None:
    ds = traces(n=4)
    seen = ds["coverage"].notnull()
    even = over_layers(ds.assign(attention=xr.where(seen, 0.01, 0.2).broadcast_like(ds["attention"]).transpose(*ds["attention"].dims)))
    np.testing.assert_allclose(even["mean"].sel(measure="spread"), 1.0)
    first = seen & (seen.cumsum("token") == 1)
    single = over_layers(ds.assign(attention=first.astype(float).broadcast_like(ds["attention"]).transpose(*ds["attention"].dims)))
    np.testing.assert_allclose(single["mean"].sel(measure="spread"), float((1 / seen.sum("token")).mean()))
    assert set(run.table("fig3")["layer"]) == set(range(8))


def test_evidence_by_correctness_in_both_orders(run: Run) -> None:
    table = run.table("fig4")
    assert set(table["order"]) == set(ORDERS)
    assert bool((table["p after Holm"] >= table["p"] - 1e-12).to_numpy().all())
    for order in ORDERS:
        ds = run.context.trace(order=order)
        layer = run.context.profile(order).layers[0]
        gained = {0.0: [], 1.0: []}
        for k in np.flatnonzero((ds["coverage"].values > 0).any(axis=1) & ~ds["knob_absent"].values):
            row, share = ds["attention"].values[k, layer].mean(axis=0), ds["coverage"].values[k]
            whole = row[ds["segment"].values[k] >= 0].mean()
            gained[float(ds["exact_match"].values[k])].append((row[share > 0].mean() - row[share == 0].mean()) / whole)
        found = table[(table["order"] == order) & (table["layer"] == "profiled")].iloc[0]
        assert found["correct"] == pytest.approx(np.mean(gained[1.0]), rel=1e-4)
        assert found["wrong"] == pytest.approx(np.mean(gained[0.0]), rel=1e-4)
        assert found["n wrong"] == len(gained[0.0])


def test_stages_end_in_the_gain(run: Run) -> None:
    data, table = run.data("fig5"), run.table("fig5").set_index("stage")
    *_, smoothed, gained = (data["map"].isel(stage=k).values for k in range(4))
    np.testing.assert_allclose(gained, np.where(np.isnan(smoothed), 1, 0.5 + 0.5 * smoothed), atol=1e-6)
    sample = next(s for s in run.context.samples() if s.id == data.attrs["sample"])
    inside = np.zeros(gained.shape, dtype=bool)
    for region in sample.evidence:
        x0, y0, x1, y1 = (round(v) for v in region.box)
        inside[y0:y1, x0:x1] = True
    assert table.loc[data["stage"].values[3], "inside"] == pytest.approx(gained[inside].mean(), abs=0.01)


def test_below_half_by_scikit_learn(run: Run) -> None:
    table = run.table("auroc-below-half")
    for order in ORDERS:
        ds, quality = profiled(run.context, order)
        for group, keep in (("all", slice(None)), ("wrong", ds["exact_match"].values == 0), ("correct", ds["exact_match"].values == 1)):
            values = np.array(quality)[keep]
            found = table[(table["order"] == order) & (table["answers"] == group)].iloc[0]
            assert found["mean"] == pytest.approx(np.mean(values[np.isfinite(values)] < 0.5)) and found["n"] == np.isfinite(values).sum()


def test_none_of_some_pictures_is_told_with_the_exact_bound() -> None:
    rates = xr.Dataset({"mean": 0.0, "interval": ("ci_bound", [0.0, 0.0])}, coords={"ci_bound": ["lower", "upper"]})
    assert share(rates, 157) == f"0.0 % (none; at most {100 * (1 - 0.025 ** (1 / 157)):.1f} %)" == "0.0 % (none; at most 2.3 %)"
    assert share(rates.assign(mean=0.01, interval=("ci_bound", [0.0, 0.02])), 157) == "1.0 % [0.0, 2.0]"
    assert share(rates.assign(mean=np.nan), 0) == "none"


def test_a_rise_over_layers_that_do_not_reach_the_picture_is_not_told() -> None:
    ds = traces(n=6, n_layers=6)
    ds["attention"] = ds["attention"].where((ds["segment"] != 1) | (ds["layer"] < 4))
    said = attention_shift.compute(cast(Any, SimpleNamespace(trace=lambda: ds, seed=0, order="image-first"))).sentence
    assert said.startswith("In the first or the last third of the layers none reaches the picture") and "higher" not in said
    assert "nan" not in said


def test_figures_of_other_models_are_said_to_be(run: Run) -> None:
    for name in ("fig1", "fig4", "profile-table", "auroc-below-half"):
        assert run.known(name)["beside"] and "models and data named beside them" in run.known(name)["apart"]


def test_central_names_both_orders_and_both_nulls(run: Run) -> None:
    table, said = run.table("central"), run.known("central")["sentence"]
    for order, null in product(ORDERS, ("placed", "distractor")):
        part = table[(table["order"] == order) & (table["null"] == null)].set_index("share")
        ds = run.context.trace(order=order)
        visible = (ds["visibility"].values.astype(object) == "visible") & ~ds["knob_absent"].values
        assert part.loc["wrong, seen", "n"] <= (visible & (ds["exact_match"].values == 0)).sum()
        outcomes = part.loc[["wrong, seen and readable", "wrong, seen, not readable", "wrong, unseen"]]
        assert outcomes["mean"].sum() == pytest.approx(1)
        assert part.loc["wrong, seen", "mean"] == pytest.approx(outcomes["mean"].iloc[:2].sum())
        probes: Any = run.context.probes(order)
        judged = disconnect(ds, run.context.profile(order), probes[0], null, n_resamples=10)
        assert part.loc["wrong, seen", "p"] == pytest.approx(float(judged["seen_p"].sel(null=null, group="wrong")))
        assert part.loc["wrong, seen", "p after Holm"] >= part.loc["wrong, seen", "p"]
        assert f"{order}: against placed boxes" in said and f"against {null} boxes" in said
    assert isinstance(run.context.probes(), tuple)


def test_all_models_repeat_what_each_says(run: Run) -> None:
    first = run.table("fig1")
    data = run.data("fig8").sel(model="demo/llava")
    for row in first.to_dict("records"):
        assert float(data["mean"].sel(section=row["section"], layer=row["layer"])) == pytest.approx(row["mean"])
    assert "of 1 models" in run.known("fig8")["sentence"] and "of 1 models" in run.known("fig10")["sentence"]


def test_the_profile_stands_beside_table_4(run: Run) -> None:
    table = run.table("profile-table")
    mine, theirs = table.iloc[0], table[table["source"] == "paper, Table 4"]
    assert mine["ids"] == " ".join(map(str, run.context.profile().layers)) and len(theirs) == 6
    (about,), said = run.known("profile-table")["about"], run.known("profile-table")["sentence"]
    assert ", digits profile, n = " in about and f"(judged samples: {N})" in about and "digits test" not in about
    assert said.startswith(f"Profiled: layer {mine['ids']}, counted from 0, so 1 of 8 (depth")
    assert [row["depth"] for _, row in theirs.iterrows()] == ["0.45-0.61", "0.33-0.41", "0.67-0.89", "0.78-0.89", "0.52-0.70", "0.57-0.95"]
    assert mine["AUROC all"] == pytest.approx(100 * np.mean(run.context.profile().auroc), abs=1e-6)


# ------------------------------------------------------------------------------------------------------- planted cases


def test_a_clear_profile_is_found_by_few_samples_and_a_random_one_is_not() -> None:
    rng = np.random.default_rng(0)
    pictures = np.array([f"p{k // 2}" for k in range(200)], dtype=object)
    scores = rng.uniform(0.4, 0.6, (200, 20))
    scores[:, [4, 9]] += 0.4
    scores[::7] = np.nan
    clear = stability(scores, pictures, [4, 9], seed=0)
    assert clear["mean"].values.tolist() == [1.0] * 6 and clear["count"].values.tolist() == [10, 20, 50, 100, 150, 200]
    assert clear["chance"].values[0] == pytest.approx(0.1)
    even = stability(rng.uniform(0.4, 0.6, (40, 20)), pictures[:40], [4, 9], seed=0)
    assert even["mean"].values[0] < 0.4 and even["count"].values.tolist() == [10, 20, 40]
    assert (even["interval"].sel(ci_bound="lower") <= even["mean"]).all()


def test_pictures_are_drawn_whole() -> None:
    """Ten samples are one whole picture here; on two of ten pictures layer 3 is best, by so much that any one of them decides a mean."""
    each = np.tile([0.6, 0.5, 0.5, 0.5], (10, 1))
    each[:2, 3] = 100.0
    found = stability(np.repeat(each, 10, axis=0), np.repeat(np.arange(10), 10).astype(object), [3], seed=0)
    assert float(found["mean"].sel(count=10)) == pytest.approx(0.2, abs=0.06)  # sample by sample it would be 1 - 0.8^10
    assert float(found["mean"].sel(count=20)) == pytest.approx(1 - 0.8**2, abs=0.06)


def test_what_cannot_be_drawn_is_refused() -> None:
    found = shared(["a", "b"])
    with pytest.raises(InterpError, match="no share to draw"):
        plots.shares(found.isel(row=[]), "", "")
    with pytest.raises(InterpError, match="No example was given"):
        plots.gallery([], "", "")
    with pytest.raises(InterpError, match="No model was given"):
        plots.curves_by_model({}, "")
    with pytest.raises(InterpError, match="'evidence' is not in the result of 'demo/a'"):
        plots.curves_by_model({"demo/a": shift(4)}, "", ["evidence"])
    sample, picture = traced()
    with pytest.raises(InterpError, match="does not have the picture's size"):
        plots.method_stages(sample, picture, {"1": xr.DataArray(np.zeros((3, 3)), dims=("y", "x"))}, picture)
    with pytest.raises(InterpError, match="first picture"):
        hidden = sample.assign_coords(image_index=sample["image_index"] + 1)
        plots.gallery([plots.Example(hidden, picture, [0], "a")], "", "")


def test_words_of_numbers() -> None:
    interval = xr.DataArray([0.1, 0.4], dims="ci_bound", coords={"ci_bound": ["lower", "upper"]})
    assert number(0.25, interval) == "0.25 [0.10, 0.40]" and percent(0.25, interval) == "25.0 % [10.0, 40.0]"
    assert percent(np.nan) == "none" and number(0.5, interval * np.nan) == "0.50 [no interval]"


def test_the_paper_s_own_sums_hold() -> None:
    """The figures as data, checked against each other where the paper prints both."""
    base, vea = (np.array(paper.MAIN_EM[name]) for name in ("base", "vea"))
    assert (base.mean(), vea.mean()) == (pytest.approx(64.39, abs=0.01), pytest.approx(70.06, abs=0.01))
    assert (vea - base).mean() == pytest.approx(paper.MEAN_GAIN["em"], abs=0.02)
    assert all(len(row) == len(paper.ANSWERING) for row in paper.MAIN_EM.values())
    assert all(len(row) == len(paper.ATTRIBUTING) for row in paper.ATTRIBUTION.values())
    for row in paper.LAYER_PROFILES:
        assert len(row.layers) == -(-row.n_layers // 10) and max(row.layers) < row.n_layers and row.auroc_selected > row.auroc_all
