"""The `digits` benchmark: deterministic, split cleanly, exactly boxed, and paired where it says so."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import label
from sklearn.datasets import load_digits, load_sample_images

import interp
from interp.benchmarks.digits import Digits, assets, load
from interp.benchmarks.digits.scene import COLOURS, NEUTRAL, PRIOR, SceneOptions, draw_scene
from interp.errors import BenchmarkError
from interp.prompts import ABSTENTION


def picture(sample: interp.Sample) -> Image.Image:
    return sample.open_images()[0]


@pytest.fixture(scope="module")
def shown() -> Digits:
    return load("test")


def test_default_test_split_has_500_samples_and_the_stated_mixture(shown: Digits) -> None:
    knobs = [sample.knobs for sample in shown]
    assert len(knobs) == 500
    answerable = [k for k in knobs if not k["absent"]]
    assert sum(k["n_digits"] == 1 for k in answerable) / len(answerable) == pytest.approx(0.7, abs=0.01)
    assert {k["n_digits"] for k in answerable} == {1, 2, 3}
    assert sum(k["absent"] for k in knobs) == 60
    assert sum(k["kind"] == "relation" for k in knobs) == 100
    for arm in ("congruent", "neutral", "conflict"):
        assert sum(k["arm"] == arm for k in knobs) == 60


def test_a_sample_depends_on_split_seed_and_index_alone() -> None:
    one, again = load("validation")[37], load("validation", limit=60)[30:][7]
    assert one.id == again.id and one.question == again.question and one.regions == again.regions
    assert np.array_equal(np.asarray(picture(one)), np.asarray(picture(again)))
    other = load("validation", seed=1)[37]
    assert not np.array_equal(np.asarray(picture(one).size), np.asarray(picture(other).size)) or one.regions != other.regions


def test_splits_share_no_glyph_and_no_photograph_pixel() -> None:
    parts = {split: assets.material(split) for split in assets.SPLITS}
    ids = np.concatenate([part.glyph_ids for part in parts.values()])
    assert len(np.unique(ids)) == len(ids) == len(load_digits(return_X_y=True)[1])
    photographs = load_sample_images().images
    used = [np.zeros(photo.shape[:2], int) for photo in photographs]
    for regions in assets._PHOTO_REGIONS.values():
        for photo, (x0, y0, x1, y1) in regions:
            used[photo][y0:y1, x0:x1] += 1
    assert max(int(each.max()) for each in used) == 1


def test_the_three_arms_of_a_scene_differ_in_one_colour_only(shown: Digits) -> None:
    triples: dict[str, dict[str, interp.Sample]] = {}
    for sample in shown:
        if sample.knobs["arm"]:
            triples.setdefault(sample.image_id, {})[sample.knobs["arm"]] = sample
    assert len(triples) == 60 and all(len(triple) == 3 for triple in triples.values())
    for triple in list(triples.values())[:20]:
        pictures = {arm: np.asarray(picture(sample)) for arm, sample in triple.items()}
        x0, y0, x1, y1 = (int(v) for v in triple["neutral"].evidence[0].box)
        outside = np.ones(pictures["neutral"].shape[:2], bool)
        outside[y0:y1, x0:x1] = False
        for arm in ("congruent", "conflict"):
            assert triple[arm].regions == triple["neutral"].regions
            assert np.array_equal(pictures[arm][outside], pictures["neutral"][outside])
            assert not np.array_equal(pictures[arm][~outside], pictures["neutral"][~outside])
        digit = int(triple["neutral"].references[0])
        assert triple["neutral"].knobs["colour"] in NEUTRAL
        assert PRIOR[triple["congruent"].knobs["colour"]] == digit != PRIOR[triple["conflict"].knobs["colour"]]
        assert {sample.references for sample in triple.values()} == {(str(digit),)}


def test_boxes_are_exact_in_original_pixels(shown: Digits) -> None:
    """With noise and ink off, a card's box is the region of its colour around its middle: found in the pixels, not from the generator."""
    pool = assets.material("test")
    options = SceneOptions(contrast=(0.0, 0.0), noise=(0.0, 0.0), colours=("red", "green", "blue", "purple"), n_cards=(3, 4))
    for seed in range(20):
        scene = draw_scene(np.random.default_rng(seed), pool, options)
        pixels = np.asarray(scene.render(pool)).astype(int)
        for card in scene.cards:
            colour = np.rint(np.array(COLOURS[card.colour]) * card.shade * 255)
            regions = np.asarray(cast(tuple[np.ndarray, int], label((np.abs(pixels - colour) <= 1).all(axis=-1)))[0])
            middle = regions[(card.box[1] + card.box[3]) // 2, (card.box[0] + card.box[2]) // 2]
            ys, xs = np.nonzero(regions == middle)
            assert middle > 0 and (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == card.box


def test_digit_boxes_hold_the_ink_and_nothing_else_does(shown: Digits) -> None:
    """Ink is where a render with full contrast differs from one without."""
    pool = assets.material("test")
    for seed in range(20):
        rng = np.random.default_rng(seed)
        clear = draw_scene(rng, pool, SceneOptions(contrast=(1.0, 1.0), noise=(0.0, 0.0)), asked_count=3)
        inked, blank = (np.asarray(replace(clear, contrast=c).render(pool)).astype(int) for c in (1.0, 0.0))
        ink = np.abs(inked - blank).max(axis=-1) > 25
        boxes = np.zeros_like(ink)
        for card in clear.cards:
            for x0, y0, x1, y1 in card.digit_boxes:
                boxes[y0:y1, x0:x1] = True
                assert ink[y0:y1, x0:x1].any(axis=1).mean() > 0.7  # a glyph fills its box's height
        assert not (ink & ~boxes).any()


def test_regions_have_roles_and_per_digit_boxes(shown: Digits) -> None:
    for sample in shown[:150]:
        roles = [region.role for region in sample.regions]
        relation, absent, digits = sample.knobs["relation"], sample.knobs["absent"], sample.knobs["n_digits"]
        assert roles.count("anchor") == (1 if relation else 0)
        assert (roles.count("evidence") == 0) == absent
        assert sample.references == (ABSTENTION,) if absent else sample.references[0].split() == list(sample.references[0].replace(" ", ""))
        if not absent:
            card, *parts = sample.evidence
            assert card.text == sample.references[0] and len(parts) == (digits if digits > 1 else 0)
            assert [part.text for part in parts] == (sample.references[0].split() if digits > 1 else [])
            x0, y0, x1, y1 = card.box
            assert all(x0 <= p.box[0] < p.box[2] <= x1 and y0 <= p.box[1] < p.box[3] <= y1 for p in parts)
        assert picture(sample).mode == "RGB"
        assert min(picture(sample).size) >= 160
    assert any(picture(sample).width != picture(sample).height for sample in shown[:50])


def test_a_relation_names_exactly_one_card(shown: Digits) -> None:
    checked = 0
    for sample in shown:
        if not sample.knobs["relation"]:
            continue
        anchor = next(r for r in sample.regions if r.role == "anchor").box
        cards = [r for r in sample.regions if r.role == "distractor"] + [sample.evidence[0]]
        side = {
            "left of": lambda b, a=anchor: b[2] <= a[0] and min(b[3], a[3]) > max(b[1], a[1]),
            "right of": lambda b, a=anchor: b[0] >= a[2] and min(b[3], a[3]) > max(b[1], a[1]),
            "above": lambda b, a=anchor: b[3] <= a[1] and min(b[2], a[2]) > max(b[0], a[0]),
            "below": lambda b, a=anchor: b[1] >= a[3] and min(b[2], a[2]) > max(b[0], a[0]),
        }[sample.knobs["relation"]]
        assert [card.role for card in cards if side(card.box)] == ["evidence"]
        checked += 1
    assert checked == 100


def test_in_training_prior_colours_mostly_carry_their_digit() -> None:
    samples = load("train", limit=400)
    single = [s for s in samples if s.knobs["n_digits"] == 1 and s.knobs["colour"] in PRIOR]
    share = np.mean([s.references[0] == str(PRIOR[s.knobs["colour"]]) for s in single])
    assert len(single) > 50 and share > 0.8


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["left of", "right of", "above", "below", None]))
def test_cards_lie_inside_apart_and_the_first_one_answers(seed: int, relation: str | None) -> None:
    scene = draw_scene(np.random.default_rng(seed), assets.material("test"), SceneOptions(n_cards=(3, 5)), relation=relation)  # type: ignore[arg-type]
    width, height = scene.size
    for k, card in enumerate(scene.cards):
        x0, y0, x1, y1 = card.box
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        for other in scene.cards[:k]:
            assert x1 <= other.box[0] or other.box[2] <= x0 or y1 <= other.box[1] or other.box[3] <= y0
    assert len({card.colour for card in scene.cards}) == len(scene.cards)
    if relation is not None:
        assert scene.neighbour(scene.cards[1], relation) is scene.cards[0]  # type: ignore[arg-type]


def test_bad_input_names_itself_and_the_remedy() -> None:
    with pytest.raises(BenchmarkError, match="no split 'dev'; use one of train, validation, profile, test"):
        interp.load_benchmark("digits", split="dev")
    with pytest.raises(BenchmarkError, match="seed"):
        interp.load_benchmark("digits", colour="red")
    with pytest.raises(BenchmarkError, match="0"):
        interp.load_benchmark("digits", limit=0)
