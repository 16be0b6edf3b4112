"""The artefacts that intervene, on the model that ships with the package and a few samples; what they ask, by other ways of seeing it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image
from sklearn.metrics import roc_auc_score

import interp
from experiments.artefacts import ablation_table, attending_again, main_table, multi_image, multi_turn, original_too, reviewers, strength
from experiments.artefacts.asking import ask, look
from experiments.artefacts.comparing import answerable, correct, mean_rows, paired, paired_rows
from experiments.artefacts.composing import Conversation, after_another, beside_another
from experiments.artefacts.context import Context, joined
from experiments.artefacts.degrading import LEVELS, PATCHES, degraded, worse
from experiments.artefacts.main_table import average_ranks, ranked
from interp import prompts
from interp.benchmarks.digits.scene import COLOURS
from interp.errors import InterpError, ModelError
from interp.reproduce import Reproduced, ReproduceSettings, reproduce
from interp.testing import samples, traces

N = 8
NAMES = ("fig6", "fig7", "main-qa", "attribution", "ablation", "vea-star", "multi-turn", "multi-image", "reviewers")
SHARED = list(dict.fromkeys([*main_table.METHODS, *reviewers.METHODS, *ablation_table.WITHOUT]))


class Run:
    """One run of these artefacts, and what its tests look into."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.settings = ReproduceSettings(out=out, limit=N, max_new_tokens=4)
        self.context = Context("demo/llava", self.settings, progress=False)
        self.context.answers(SHARED)  # in one evaluation, for the time: artefacts find what others asked for
        self.done: Reproduced = reproduce(NAMES, self.settings)

    def table(self, name: str) -> Any:
        return pd.read_csv(self.out / name / "demo--llava" / "table.csv")

    def known(self, name: str) -> dict[str, Any]:
        return json.loads((self.out / name / "demo--llava" / "provenance.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.plots.files.BROWSERS", ())
        for kind, levels in LEVELS.items():  # the ends of each are enough
            patch.setitem(LEVELS, kind, (levels[0], levels[-1]))
        yield Run(tmp_path_factory.mktemp("reproduce"))


@cache
def asked() -> Sequence[interp.Sample]:
    return list(interp.load_benchmark("digits", split="test", limit=50))


def seen_colours(sample: interp.Sample, image: int = 0) -> list[str]:
    """The colours of a picture's cards, read off its pixels: the brightest of each card's frame, which no ink reaches."""
    pixels = np.asarray(sample.open_images()[image], dtype=float) / 255
    known = {name: np.array(c) / np.linalg.norm(c) for name, c in COLOURS.items()}
    found = []
    for region in sample.regions:
        if region.image_index != image or (region.role == "evidence" and " " not in str(region.text) and region is not card(sample)):
            continue
        x0, y0, x1, y1 = (round(v) for v in region.box)
        frame = np.concatenate([pixels[y0, x0:x1], pixels[y1 - 1, x0:x1], pixels[y0:y1, x0], pixels[y0:y1, x1 - 1]])
        middle = np.median(frame, axis=0)
        found.append(max(known, key=lambda name: float(known[name] @ middle)))
    return found


def card(sample: interp.Sample) -> Any:
    """The asked card's region: the largest of the evidence."""
    return max(sample.evidence, key=lambda r: (r.box[2] - r.box[0]) * (r.box[3] - r.box[1]), default=None)


# ---------------------------------------------------------------------------------------------------------- the whole


def test_every_one_is_there_and_says_something(run: Run) -> None:
    assert run.done.failed == []
    for name in NAMES:
        known = run.known(name)
        assert known["sentence"].endswith(".") and "nan" not in known["sentence"].lower() and "8" in known["n"]
        assert known["beside"] or known["apart"]
        assert "seed 0" in known["about"][0] and "after Holm" in known["sentence"]
        table, folder = run.table(name), run.out / name / "demo--llava"
        assert not table.empty and (folder / "figure.html").stat().st_size > 5000 and (folder / "table.md").exists()
        tested = table["p"].notna()
        assert bool((table.loc[tested, "p after Holm"] >= table.loc[tested, "p"] - 1e-12).to_numpy().all())


def test_the_paper_stands_beside_with_its_setting(run: Run) -> None:
    main = run.known("main-qa")
    assert [main["beside"][5][k] for k in (0, 2)] == ["EM by containment, %, vea", "49.6, 54.1, 78.4, 75.8, 61.2, 75.3, 83.2, 82.9"]
    assert "other models" in main["apart"]
    assert [row[2] for row in run.known("fig6")["beside"]] == ["+16.4 (> 110 % relative)", "+25.8 (> 220 % relative)"]
    table = run.table("fig6").set_index(["degraded by", "level", "less"])
    for (what, ours, *_), at in zip(run.known("fig6")["beside"], [("noise", "60 %"), ("mask", "30 %")], strict=True):
        assert "points of EM" in what and float(ours.split()[0]) == pytest.approx(100 * table.loc[(*at, "base"), "difference"], abs=0.051)
    assert all("GradCAM is of the answering model itself" in run.known(name)["apart"] for name in ("main-qa", "attribution"))
    assert run.known("multi-turn")["beside"][0][2] == "27.5 to 47.8" and run.known("multi-image")["beside"][0][2] == "61.4 to 68.9"


# ------------------------------------------------------------------------------------------------------ bad pictures


def test_noise_has_the_deviation_it_is_named_by_and_grows_out_of_itself() -> None:
    grey = Image.new("RGB", (120, 90), (128, 128, 128))
    weak, strong = (np.asarray(worse(grey, "noise", level, 7), dtype=float) - 128 for level in (0.2, 0.4))
    assert weak.std() == pytest.approx(0.2 * 255, rel=0.02)
    inside = np.abs(strong) < 120  # not clipped
    np.testing.assert_allclose(strong[inside], 2 * weak[inside], atol=1.6)
    assert (np.asarray(worse(grey, "noise", 0.2, 8)) != np.asarray(worse(grey, "noise", 0.2, 7))).any()


def test_masks_cover_the_share_they_are_named_by_and_hold_the_smaller_ones() -> None:
    white = Image.new("RGB", (140, 210), (255, 255, 255))
    side = 140 // PATCHES
    small, large = (np.asarray(worse(white, "mask", level, 7))[..., 0] == 128 for level in (0.15, 0.3))
    cells = large.reshape(210 // side, side, 140 // side, side).transpose(0, 2, 1, 3).reshape(-1, side * side)
    assert set(cells.mean(axis=1)) == {0.0, 1.0} and cells.all(axis=1).sum() == round(0.3 * len(cells))
    assert small.mean() == pytest.approx(0.15, abs=0.5 / len(cells)) and (large >= small).all()


def test_low_resolution_keeps_size_and_only_means_of_blocks() -> None:
    fine = np.indices((96, 128)).sum(axis=0) % 2 * 255
    left = np.where(np.arange(128) < 64, 1, 0)
    shown = worse(Image.fromarray(np.stack([fine * left] * 3, axis=-1).astype(np.uint8)), "resolution", 0.25, 0)
    values = np.asarray(shown, dtype=float)[..., 0]
    assert shown.size == (128, 96)
    np.testing.assert_allclose(values[:, :60], 127.5, atol=1)
    np.testing.assert_allclose(values[:, 68:], 0, atol=1)


def test_a_degraded_sample_is_the_same_question_about_the_same_place() -> None:
    sample = asked()[0]
    for kind, levels in LEVELS.items():
        bad, plain = (degraded(sample, kind, level, 0) for level in (levels[-1], levels[0]))
        assert (bad.id, bad.question, bad.regions, bad.image_id) == (sample.id, sample.question, sample.regions, sample.image_id)
        before, after, same = (np.asarray(each.open_images()[0], dtype=float) for each in (sample, bad, plain))
        assert (same == before).all() and before.shape == after.shape and np.abs(before - after).mean() > 2
        assert (after == np.asarray(degraded(sample, kind, levels[-1], 0).open_images()[0])).all()


def test_robustness_is_of_these_pictures(run: Run) -> None:
    table = run.table("fig6")
    means = table[table["mean"].notna() & (table["score"] == "EM")]
    assert set(zip(means["degraded by"], means["level"], strict=True)) == {
        ("nothing", "as it is"),
        ("noise", "60 %"),
        ("resolution", "1/4"),
        ("mask", "30 %"),
    }
    bad = [degraded(sample, "mask", 0.3, 0) for sample in run.context.samples("judged", N)]
    kept = [sample for sample in bad if not sample.knobs["absent"]]
    said = run.context.vlm().generate(kept, "vea", 4)
    right = np.mean([text == sample.references[0] for text, sample in zip(said, kept, strict=True)])
    row = means[(means["degraded by"] == "mask") & (means["method"] == "inst")].iloc[0]
    assert row["mean"] == pytest.approx(right) and row["n"] == len(kept)


# ----------------------------------------------------------------------------------------------------------- strength


def test_settings_of_a_highlight_answer_as_evaluate_does_with_them(run: Run) -> None:
    context, bench = run.context, run.context.samples("judged", 4)
    found = strength.sweep(context)
    for alpha, sigma in ((0.25, 0.5), (0.5, 0.125), (1.0, 0.5), (0.5, 0.0)):
        own = interp.evaluate(context.vlm(), bench, ["vea"], context.profile(), alpha=alpha, sigma=sigma, max_new_tokens=4)
        theirs = found.sel({"method": strength.method_at(alpha, sigma)}).isel(sample=slice(4))
        assert theirs["prediction"].values.tolist() == own["prediction"].values[0].tolist()
        np.testing.assert_allclose(theirs["mean_gain"], own["mean_gain"][0], rtol=1e-6)
        np.testing.assert_allclose(theirs["reference_logprob"], own["reference_logprob"][0], atol=1e-4)


def test_every_point_of_the_sweep_is_there(run: Run) -> None:
    table = run.table("fig7")
    of_vea = table[(table["score"] == "EM") & table["mean"].notna() & (table["method"] != "base")]
    points = {(alpha, strength.SIGMA) for alpha in strength.ALPHAS} | {(strength.ALPHA, sigma) for sigma in strength.SIGMAS}
    assert set(zip(of_vea["alpha"], of_vea["sigma"], strict=True)) == points and len(of_vea) == len(points) == 9
    assert table["p"].notna().sum() == 2 * (len(points) - 1)


# ------------------------------------------------------------------------------------------------------------- tables


def test_ranks_by_hand() -> None:
    scores = xr.DataArray([[0.5, 0.7, 0.7], [0.9, 0.1, 0.2]], dims=("model", "method"))
    assert average_ranks(scores).values.tolist() == [2.0, 2.25, 1.75]


def made_up(model: str, scores: dict[str, list[float]], missing: str = "") -> Any:
    """A context whose answers are these, two samples a picture, the last one absent."""
    n = len(next(iter(scores.values())))
    coords = {
        "method": list(scores),
        "sample": [f"s{k}" for k in range(n)],
        "image_id": ("sample", [f"p{k // 2}" for k in range(n)]),
        "knob_absent": ("sample", [k == n - 1 for k in range(n)]),
    }
    values = np.array(list(scores.values()))
    variables = {name: (("method", "sample"), values) for name in ("exact_match", "token_f1")}
    said = [["" if np.isnan(v) else "3" if v else "13" if name == "vea" else "7" for v in row] for name, row in scores.items()]
    variables["prediction"] = (("method", "sample"), np.array(said, dtype=object))
    variables |= {name: (("method", "sample"), np.ones_like(values)) for name in ("seconds", "passes")}
    attrs = {"model": model, **({"not_applicable": json.dumps({missing: "its card lists no two images"})} if missing else {})}
    found = xr.Dataset(variables, coords=coords, attrs=attrs)
    samples = [SimpleNamespace(id=f"s{k}", references=("3",)) for k in range(n)]
    return SimpleNamespace(
        model=model,
        order="image-first",
        seed=0,
        settings=SimpleNamespace(max_new_tokens=16),
        samples=lambda: samples,
        answers=lambda names: found.sel({"method": list(names)}),
    )


def planted(*, worst: str, missing: str = "") -> dict[str, list[float]]:
    """All methods right but every second time, `worst` never."""
    right = {name: [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0] for name in main_table.METHODS}
    right[worst] = [0.0] * 7
    return right | ({missing: [np.nan] * 7} if missing else {})


def test_methods_are_ranked_over_models_that_all_of_them_fit() -> None:
    contexts = [made_up("a", planted(worst="base")), made_up("b", planted(worst="inst", missing="vea-star"), "vea-star")]
    result = main_table.compute(contexts)
    table: Any = result.table
    ranks = table[table["model"] == "average rank over 2"].set_index(["score", "method"])
    everywhere = [name for name in main_table.METHODS if name != "vea-star"]
    assert set(ranks.loc["EM"].index) == set(everywhere)
    # of eight: seven share ranks 1 to 7, the worst is 8th
    assert ranks.loc[("EM", "base"), "mean"] == ranks.loc[("EM", "inst"), "mean"] == (8 + 4) / 2
    assert ranks.loc[("EM", "vea"), "mean"] == ranks.loc[("EM", "vea"), "lower"] == ranks.loc[("EM", "vea"), "upper"] == 4
    contained = table[table["score"] == "EM by containment"].set_index(["model", "method"])["mean"]
    assert contained["a", "vea"] == 1 and contained["a", "inst"] == pytest.approx(4 / 6) and np.isnan(contained["b", "vea-star"])
    lacking = table[(table["model"] == "b") & (table["method"] == "vea-star")]
    assert lacking["note"].eq("not applicable: its card lists no two images").all() and lacking["mean"].isna().all()
    assert "vea-star" in result.sentence and "figure_a" in result.figures and result.n == "7, of which 6 answerable"
    tested = table[table["p"].notna()]
    assert len(tested) == 2 * (8 + 7) * 2 - 2 * 2  # models, differences from base and inst, scores; without the method that does not fit
    absent = table[(table["score"] == "EM, nothing to be seen") & (table["model"] == "a")].set_index("method")
    assert absent.loc["vea", "n"] == 1 and absent.loc["vea", "mean"] == 0


def test_a_method_without_effect_is_said_to_be_and_not_ranked() -> None:
    name, column = "sink-redistribution", "redistributed_heads"

    def context(model: str, work: list[float]) -> Any:
        made = made_up(model, planted(worst="base"))
        asked_for = made.answers
        made.answers = lambda names: asked_for(names).assign({column: ("sample", work)})
        return made

    idle, busy = context("a", [0.0] * 7), context("b", [0.0] * 6 + [0.1])
    result = main_table.compute([idle, busy])
    table: Any = result.table
    mine = table[table["method"] == name]
    assert (
        mine.loc[mine["model"] == "a", "note"].str.startswith("changed no head").all()
        and mine.loc[mine["model"] == "b", "note"].isna().all()
    )
    assert name not in set(table.loc[table["model"] == "average rank over 2", "method"]) and "vea" in set(table["method"])
    assert result.sentence.count("changed no head") == 1 and result.sentence.endswith(f"in one or more: {name}.")
    alone: Any = main_table.compute([busy]).table
    assert name in set(alone.loc[alone["model"] == "rank", "method"])


def test_a_rank_moves_when_other_pictures_are_drawn() -> None:
    one = {"x": [1.0, 1.0, 0.0, 0.0], "y": [0.0, 0.0, 1.0, 0.0]}
    found = xr.Dataset(
        {"exact_match": (("method", "sample"), np.array(list(one.values())))},
        coords={"method": list(one), "image_id": ("sample", ["a", "b", "c", "d"])},
    )
    rows = ranked({"m": found}, ["x", "y"], "exact_match", 0)
    assert [(row["mean"], row["lower"], row["upper"]) for row in rows] == [(1.0, 1.0, 2.0), (2.0, 1.0, 2.0)]


def test_a_method_that_is_not_applicable_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["base", "inst", "vea", "vea-star", "original-twice"]
    scores = {name: [1.0, 0.0, 1.0, 1.0] if "star" not in name and "twice" not in name else [np.nan] * 4 for name in names}
    context = made_up("a", scores, "vea-star")
    monkeypatch.setattr(original_too, "starred", lambda context: context.answers(names))
    result = original_too.compute(context)
    assert result.sentence == "VEA* is not applicable to this model (its card lists no two images)."
    table: Any = result.table
    row = table[(table["method"] == "vea-star") & (table["less"] == "inst")].iloc[0]
    assert row["note"] == "not applicable: its card lists no two images" and np.isnan(row["difference"]) and np.isnan(row["p after Holm"])


def test_what_is_not_applicable_is_known_of_every_store() -> None:
    first, second = made_up("a", {"x": [1.0] * 3}).answers(["x"]), made_up("a", {"y": [0.0] * 3}, "y").answers(["y"])
    both = joined([first, second])
    assert json.loads(both.attrs["not_applicable"]) == {"y": "its card lists no two images"}
    assert both["method"].values.tolist() == ["x", "y"] and both["exact_match"].values.tolist() == [[1.0] * 3, [0.0] * 3]
    assert "not_applicable" not in joined([second, first], ["x"]).attrs


def test_paired_rows_and_their_correction_by_loops() -> None:
    ds = traces(n=12)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, (3, 12)).astype(float)
    coords = {"method": ["a", "b", "c"], "image_id": ("sample", [f"p{k // 2}" for k in range(12)])}
    answers = xr.Dataset({"exact_match": (("method", "sample"), values)}, coords=coords, attrs=ds.attrs)
    rows = paired_rows(answers, "a", scores={"exact_match": "EM"}, seed=0, where="here")
    for row, other in zip(rows, (1, 2), strict=True):
        gained = values[other] - values[0]
        totals = gained.reshape(6, 2).sum(axis=1)
        signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T
        assert row["difference"] == pytest.approx(gained.mean()) and row["where"] == "here" and row["less"] == "a"
        assert row["p"] == pytest.approx((np.abs(signs @ totals) >= abs(totals.sum()) - 1e-9).mean())
        assert (row["wins"], row["losses"]) == ((gained > 0).sum(), (gained < 0).sum())
    plain = paired(xr.DataArray(values[1] - values[0], dims="sample"), answers["image_id"].values, seed=0)
    assert plain == pytest.approx({name: rows[0][name] for name in plain})
    three = correct([{"p": 0.01}, {"mean": 1.0}, {"p": 0.04}, {"p": float("nan")}])
    assert [row.get("p after Holm") for row in three][:3] == [0.02, None, 0.04] and np.isnan(three[3]["p after Holm"])


def test_questions_without_an_answer_are_scored_apart(run: Run) -> None:
    everyone = run.context.answers(["base", "inst"])
    kept = [k for k, sample in enumerate(run.context.samples("judged", N)) if not sample.knobs["absent"]]
    assert 0 < len(kept) < N and answerable(everyone).sizes["sample"] == len(kept)
    row = mean_rows(answerable(everyone), {"exact_match": "EM"}, seed=0)[1]
    assert row["mean"] == pytest.approx(everyone["exact_match"].values[1][kept].mean()) and row["method"] == "inst"
    found = run.table("main-qa")
    base = found[(found["model"] == "demo/llava") & (found["method"] == "inst") & (found["score"] == "EM")].iloc[0]
    assert base["mean"] == pytest.approx(row["mean"]) and base["passes"] > 1 and base["seconds"] > 0


def test_attribution_by_scikit_learn(run: Run) -> None:
    context, table = run.context, run.table("attribution")
    means = table[table["mean"].notna()].set_index(["score", "method"])
    ds = context.trace()
    layers = {"vea": list(context.profile().layers), "layers-0-50": list(range(4)), "layers-0-100": list(range(8))}
    for name, chosen in layers.items():
        values = []
        for k in range(N):
            share = ds["coverage"].values[k]
            keep = np.isfinite(share)
            if (share[keep] > 0).any():
                values.append(roc_auc_score(share[keep] > 0, ds["attention"].values[k][chosen].mean(axis=(0, 1))[keep]))
        row = means.loc[("AUROC", name)]
        assert row["mean"] == pytest.approx(np.mean(values), abs=2e-3) and row["n"] == len(values)
    assert set(means.loc["AUROC"].index) == {
        *("layers-0-100", "layers-0-50", "layers-50-100", "var", "agla", "rollout", "gradient-relevance", "vea")
    }


def test_ablation_is_against_the_whole(run: Run) -> None:
    table = run.table("ablation")
    means = table[table["mean"].notna()].set_index(["score", "method"])["mean"]
    for _, row in table[table["difference"].notna()].iterrows():
        expected = means[(row["score"], row["method"])] - means[(row["score"], "vea")]
        assert row["less"] == "vea" and row["difference"] == pytest.approx(expected)
    assert table["p"].notna().sum() == 8


# ----------------------------------------------------------------------------------------------------- several of each


def test_the_asked_card_is_the_only_one_that_fits() -> None:
    originals = asked()
    for k, (sample, both) in enumerate(zip(originals, beside_another(originals), strict=True)):
        place = both.knobs["asked_picture"]
        assert place == k % 2 and len(both.images) == 2 and both.question == sample.question and both.references == sample.references
        pictures = both.open_images()
        assert (np.asarray(pictures[place]) == np.asarray(sample.open_images()[0])).all()
        named = {colour for colour in COLOURS if colour in sample.question} | {sample.knobs["colour"]}
        theirs = [r for r in both.regions if r.image_index != place]
        assert theirs and {r.role for r in theirs} == {"distractor"} and named.isdisjoint(seen_colours(both, 1 - place))
        assert [(r.box, r.role) for r in both.regions if r.image_index == place] == [(r.box, r.role) for r in sample.regions]
        other = next(each for each in originals if each.id == both.knobs["beside"])
        assert other.image_id != sample.image_id
        assert (np.asarray(pictures[1 - place]) == np.asarray(other.open_images()[0])).all()


def test_colours_are_those_of_the_pixels() -> None:
    for sample in asked():
        assert sample.knobs["colours"].split() == seen_colours(sample)


def test_an_earlier_question_is_about_another_card() -> None:
    originals = asked()
    for sample, later in zip(originals, after_another(originals), strict=True):
        colours = dict(zip(seen_colours(sample), sample.regions, strict=False))
        named = [colour for colour in COLOURS if f"the {colour} card?" in later.knobs["earlier_question"]]
        assert len(named) == 1 and later.knobs["earlier_answer"] == colours[named[0]].text and colours[named[0]].role != "evidence"
        assert (later.id, later.question, later.images) == (sample.id, sample.question, sample.images)
    plain = next(sample for sample in originals if sample.knobs["kind"] == "plain")
    worded = after_another([plain])[0].knobs["earlier_question"]
    assert worded.replace(worded.split()[-2], plain.knobs["colour"]) == plain.question


def test_what_cannot_be_composed_is_refused() -> None:
    with pytest.raises(InterpError, match="--benchmark digits"):
        after_another(samples(2))
    with pytest.raises(InterpError, match="take more samples"):
        beside_another(asked()[:1])


def test_the_second_turn_is_asked_after_the_first(run: Run) -> None:
    context = run.context
    later = after_another(context.samples("judged", N))[:4]
    found = multi_turn.asked(context)["second turn"]
    vlm = context.vlm()
    for name, prompt in (("base", "base"), ("inst", "vea")):
        said = []
        for sample in later:
            turn = (prompts.word(prompt, sample.knobs["earlier_question"]).text, sample.knobs["earlier_answer"])
            said.append(vlm.generate(sample, prompt, 4, history=[turn]))
            prompted = Conversation.of(vlm).encode(sample, prompt)
            assert (prompted.token_ids == vlm.encode(sample, prompt, [turn]).token_ids).all()
            places = [prompted.text.index(words) for words in (turn[0], turn[1] + vlm.processor.tokenizer.eos_token, sample.question)]
            assert places == sorted(places) and len(prompted) > len(vlm.encode(sample, prompt))
        assert found["prediction"].sel({"method": name}).values[:4].tolist() == said
    assert found.attrs["settings"] == '{"asked": "after another question"}' and found.sizes["sample"] == N


@pytest.mark.parametrize(("artefact", "form"), [(multi_turn, "two turns"), (multi_image, "two images")])
def test_a_form_the_model_never_saw_is_not_scored(run: Run, monkeypatch: pytest.MonkeyPatch, artefact: Any, form: str) -> None:
    monkeypatch.setattr("experiments.artefacts.asking.trained_forms", lambda vlm: frozenset({"base", "vea"}))
    with pytest.raises(ModelError, match=f"Not applicable to 'demo/llava': its card lists no training on {form}"):
        artefact.compute(run.context)


def test_attention_to_two_pictures_by_loops(run: Run) -> None:
    context = run.context
    found = multi_image.looked(context)
    ds = look(context, beside_another(context.samples("judged", N)), multi_image.LABEL)
    for k in range(N):
        values = ds["attention"].values[k][list(context.profile().layers)].mean(axis=(0, 1))
        image, share = ds["image_index"].values[k], ds["coverage"].values[k]
        right = image == ds["knob_asked_picture"].values[k]
        assert float(found["attention on the asked picture"][k]) == pytest.approx(values[right].sum() / values[image >= 0].sum(), rel=1e-4)
        assert float(found["even"][k]) == pytest.approx(right.sum() / (image >= 0).sum())
        for name, tokens in (("AUROC over both pictures", image >= 0), ("AUROC on the asked picture", right)):
            known = roc_auc_score(share[tokens] > 0, values[tokens]) if (share[tokens] > 0).any() else np.nan
            assert float(found[name][k]) == pytest.approx(known, nan_ok=True, abs=1e-6)
        assert not (share[(image >= 0) & ~right] > 0).any()


# ------------------------------------------------------------------------------------------------------- the reviewers


def test_terciles_hold_every_sample_once(run: Run) -> None:
    table = run.table("reviewers")
    answers = answerable(run.context.answers(["inst", "vea"]))
    thirds = table[table["of"].str.contains("lowest|middle|highest") & (table["less"] == "inst")]
    gained = (answers["exact_match"].values[1] - answers["exact_match"].values[0])[np.isfinite(answers["profiled_auroc"].values)]
    assert thirds["n"].sum() == len(gained)
    assert (thirds["difference"] * thirds["n"]).sum() == pytest.approx(gained.sum())
    order = np.sort(answers["profiled_auroc"].values[np.isfinite(answers["profiled_auroc"].values)])
    assert thirds["n"].tolist()[0] == ((order <= np.quantile(order, 1 / 3)) & (order < order.max())).sum()
    assert {row for row in table["asked"]} == {known for known in table["asked"] if known.endswith("?")} and table["asked"].nunique() == 5


@pytest.mark.parametrize(
    ("quality", "sizes"),
    [
        ([0.4, 0.6, 0.7, 0.8, 0.9, 1.0], {"AUROC under": 1, "lowest": 2, "middle": 2, "highest": 2}),
        ([0.6, 0.7, 0.8, 1.0, 1.0, 1.0], {"AUROC under": 0, "lowest": 2, "middle": 1, "highest": 3}),  # more than a third are tied
        ([0.6, 1.0, 1.0, 1.0, 1.0, 1.0], {"AUROC under": 0, "lowest": 1, "highest": 5}),
    ],
)
def test_tied_qualities_are_never_split_nor_lost(run: Run, quality: list[float], sizes: dict[str, int]) -> None:
    answers = answerable(run.context.answers(["base", "inst", "vea"])).isel(sample=slice(0, len(quality)))
    rows = reviewers.by_quality(answers.assign(profiled_auroc=("sample", quality)), seed=0)
    found = {str(row["of"]): row["n"] for row in rows if row["less"] == "inst"}
    assert {begins: n for begins in sizes for of, n in found.items() if of.startswith(begins)} == sizes and len(found) == len(sizes)


@pytest.mark.parametrize(("quality", "shown"), [(0.981, "0.98"), (0.9987, "0.9987"), (0.99999, "0.999990"), (1.0, "1.00"), (0.5, "0.50")])
def test_a_bound_of_quality_is_told_from_one(run: Run, quality: float, shown: str) -> None:
    answers = answerable(run.context.answers(["base", "inst", "vea"])).isel(sample=slice(0, 6))
    rows = reviewers.by_quality(answers.assign(profiled_auroc=("sample", [0.1, quality, quality, quality, 1.0, 1.0])), seed=0)
    assert f"lowest AUROC, to {shown}" in {row["of"] for row in rows}


def test_bounds_of_quality_are_told_apart(run: Run) -> None:
    answers = answerable(run.context.answers(["base", "inst", "vea"])).isel(sample=slice(0, 6))
    rows = reviewers.by_quality(answers.assign(profiled_auroc=("sample", [0.1, 0.9912, 0.9912, 0.9934, 0.9934, 0.9999])), seed=0)
    assert {"lowest AUROC, to 0.991", "middle AUROC, to 0.993", "highest AUROC, above 0.993"} <= {row["of"] for row in rows}


def test_a_highlight_changes_what_is_seen_and_the_original_nothing(run: Run) -> None:
    found = attending_again.measured(run.context)
    first = found.sel(shown="original")
    kept = np.isfinite(first[attending_again.CONTENT[0]].values)
    assert kept.any() and (first[attending_again.CONTENT[0]].values[kept] == 0).all()
    np.testing.assert_allclose(first[attending_again.CONTENT[1]].values[kept], 1)
    assert (found.sel(shown=["highlighted", "shifted"])[attending_again.CONTENT[0]].values[:, kept] > 0).all()
    bench = run.context.samples("judged", N)
    plain = interp.trace(run.context.vlm(), bench, prompt="vea", answers=False)
    for k in np.flatnonzero(kept)[:3]:
        share = plain["coverage"].values[k]
        keep = np.isfinite(share)
        row = plain["attention"].values[k][list(run.context.profile().layers)].mean(axis=(0, 1))
        expected = roc_auc_score(share[keep] > 0, row[keep])
        assert float(first[attending_again.ATTENTION[0]][k]) == pytest.approx(expected, abs=2e-3)
        inside = row[share > 0].mean() / row[plain["segment"].values[k] >= 0].mean()
        assert float(first[attending_again.ATTENTION[1]][k]) == pytest.approx(inside, rel=0.02)


def test_asking_again_opens_what_is_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same samples and methods: no forward pass. Another picture: another store."""
    context = run.context
    before = ask(context, context.samples("judged", N), [original_too.TWICE])
    monkeypatch.setattr("interp.methods.batch.Batch.ask", None)
    later = Context("demo/llava", run.settings, progress=False)  # another run in the same folder
    again = ask(later, later.samples("judged", N), [original_too.TWICE])
    assert again["prediction"].values.tolist() == before["prediction"].values.tolist()
    bad = [degraded(sample, "noise", 0.6, 0) for sample in context.samples("judged", N)]
    with pytest.raises(TypeError):
        ask(context, bad, [original_too.TWICE])
