"""Every family's map from tokens to pixels, proved by an oracle that shares no code with it (see `geometry_oracle`)."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import transformers
from geometry_oracle import Claimed, Probed, Size, faults, mosaic, observe, of_picture, silence, silenced
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from interp.benchmarks.sample import Sample
from interp.testing import TINY, tiny_vlm
from interp.vlm import VLM

SHORTEST, LARGEST, MOST_ELONGATED = 30, (1200, 900), 6
# Enough for every layout a family has: tiles in both directions, a crop, a resampled grid, a picture that is enlarged.
RELEASED: dict[str, list[Size]] = {
    "llava": [(640, 480), (500, 1400)],
    "llava_next": [(640, 480), (400, 1100)],
    "llava_onevision": [(640, 480), (1300, 1000), (2000, 300)],
    "qwen2_5_vl": [(640, 480), (1203, 917)],
    "qwen3_vl": [(640, 480), (1203, 917)],
    "gemma3": [(1000, 1300)],
    "gemma3_pan_and_scan": [(1700, 700)],
    "internvl": [(500, 1500)],
    "internvl3_5": [(900, 450)],
}
# Sizes at which some view is not resized, but cropped, padded or tiled.
UNSCALED: dict[str, list[Size]] = {
    "llava": [(28, 45), (61, 28)],
    "llava_next": [(56, 45), (84, 21), (19, 84)],
    "llava_onevision": [(60, 47), (90, 60), (120, 101)],
    "qwen2_5_vl": [(48, 32)],
    "qwen3_vl": [(32, 64)],
    "gemma3": [(28, 28)],
    "gemma3_pan_and_scan": [(84, 28), (28, 56)],
    "internvl": [(84, 28), (28, 56)],
    "internvl3_5": [(56, 56)],
}
# Edge of a token's cell, processed pixels: the patch, times how many are merged.
CELL = {
    "tiny": dict(zip(TINY, (7, 7, 7, 8, 8, 14, 14, 14, 14), strict=True)),
    "released": dict(zip(TINY, (14, 14, 14, 28, 32, 56, 56, 28, 28), strict=True)),
}


def _drawn(seed: int) -> Size:
    rng = np.random.default_rng(seed)
    long = SHORTEST * (LARGEST[0] / SHORTEST) ** rng.random()
    short = min(max(long / rng.uniform(1, MOST_ELONGATED), SHORTEST), LARGEST[1])
    size = (round(long), round(short))
    return size if rng.random() < 0.5 else size[::-1]


# 30 x 30 to 1200 x 900, either way up, evenly over orders of magnitude; drawn by seed, for of a range hypothesis prefers the ends.
sizes = st.integers(0, 2**32 - 1).map(_drawn)


@pytest.mark.parametrize("family", TINY)
def test_the_map_is_right_at_every_size(family: str) -> None:
    tried: list[Size] = []
    dropped: list[Size] = []
    counts: Counter[str] = Counter()

    # (a seed cannot be shrunk to a simpler one)
    @settings(max_examples=5, derandomize=True, deadline=None, database=None, phases=(Phase.explicit, Phase.generate))
    @example((1200, 900))
    @example((180, 30))
    @example((30, 30))
    @given(sizes)
    def holds(size: Size) -> None:
        tried.append(size)
        probed, claimed = observe(silenced(family), size)
        if claimed.too_fine:
            dropped.append(size)
        else:
            assert faults(probed, claimed, counts) == []

    holds()
    assert len(dropped) < len(tried) / 3, (dropped, tried)
    assert min(counts[kind] for kind in ("inside", "strongest", "union")) > 2 * len(tried), counts
    assert counts["mixed"] < 0.02 * counts["union"], counts


@pytest.mark.parametrize("family", [family for family in TINY if family != "internvl3_5"])
def test_the_regions_of_a_picture_are_the_pixels_that_move_its_tokens(family: str) -> None:
    """The whole of one picture, block by block."""
    probed, claimed = observe(silenced(family), (96, 66), blocks=mosaic((96, 66), 3))
    assert not claimed.too_fine
    assert faults(probed, claimed) == []
    middle = (probed.blocks[:, :2] + probed.blocks[:, 2:]) / 2
    weights = probed.moved / np.maximum(probed.moved.sum(axis=0), 1e-9)
    has_region = ~np.isnan(claimed.boxes).any(axis=1)
    centre = (claimed.boxes[:, :2] + claimed.boxes[:, 2:]) / 2
    off = np.abs(weights.T @ middle - centre) / claimed.cell
    assert off[has_region].max() < 0.3, "a token's pixels are centred elsewhere"


@pytest.mark.parametrize(("family", "size"), [(family, size) for family in TINY for size in UNSCALED[family]], ids=str)
def test_regions_are_exact_where_resizing_does_nothing(family: str, size: Size) -> None:
    """No margin is needed there: one pixel moves those tokens whose box holds it and no others."""
    pixels = np.random.default_rng(0).integers(0, size, (80, 2))
    probed, claimed = observe(silenced(family), size, blocks=np.hstack([pixels, pixels + 1]))
    exact = (claimed.scale == 1).all(axis=1)
    assert exact.any()
    boxes = claimed.boxes[exact]
    holds = np.all((pixels[:, None] >= boxes[:, :2] - 1e-9) & (pixels[:, None] + 1 <= boxes[:, 2:] + 1e-9), axis=2)
    moves = probed.moved[:, exact] > 1e-5
    np.testing.assert_array_equal(moves[~probed.mixed], holds[~probed.mixed])
    assert not moves[probed.mixed].any() and probed.mixed.mean() < 0.2


@cache
def released(family: str, size: Size) -> tuple[Probed, Claimed]:
    return observe(silenced(family, "released"), size, probes=10)


@pytest.mark.parametrize(("family", "size"), [(family, size) for family in TINY for size in RELEASED[family]], ids=str)
def test_the_map_is_right_at_released_sizes(family: str, size: Size) -> None:
    probed, claimed = released(family, size)
    counts: Counter[str] = Counter()
    assert not claimed.too_fine
    assert faults(probed, claimed, counts) == []
    assert counts["inside"] >= 3 and counts["mixed"] <= 3, counts


@pytest.mark.parametrize("kind", ["tiny", "released"])
@pytest.mark.parametrize("family", TINY)
def test_the_scale_is_processed_pixels_per_original_pixel(family: str, kind: str) -> None:
    """A region is proved by the oracle, and how many processed pixels it holds is the model's patch size."""
    vlm = silenced(family, kind)
    for size in ((640, 480), (400, 660)):
        encoding = vlm.encode(Sample("s", Image.new("RGB", size), "what", "one"))
        boxes, scale = encoding.token_boxes, encoding.token_scale
        np.testing.assert_array_equal(np.isnan(boxes).any(axis=1), np.isnan(scale).any(axis=1))
        for view in range(encoding.view.max() + 1):
            here = encoding.view == view
            assert len(np.unique(scale[here], axis=0)) == 1
            cells = (boxes[here, 2:] - boxes[here, :2]) * scale[here]
            if family == "llava_onevision" and kind == "tiny" and view == 1:  # resampled: the canvas is four tiles of 30 along one edge
                np.testing.assert_allclose(max(scale[here][0] * size), 120)
            else:
                np.testing.assert_allclose(np.median(cells, axis=0), CELL[kind][family], rtol=1e-9)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("family", TINY)
def test_each_of_two_pictures_moves_its_own_tokens(family: str, which: int) -> None:
    pair = (150, 96), (90, 170)
    probed, claimed = observe(silenced(family), *pair, which=which, probes=30)
    assert claimed.image_index.tolist() == sorted(claimed.image_index) and set(claimed.image_index) == {0, 1}
    assert (probed.moved[:, claimed.image_index != which] < 1e-5).all()
    own = of_picture(probed, claimed, which)
    assert not own[1].too_fine
    counts: Counter[str] = Counter()
    assert faults(*own, counts) == []
    assert counts["inside"] > 5
    if family == "llava_onevision":  # of several pictures, each is padded to a square, and there is one newline at its end
        assert len(own[1]) == 4 * 4 + 1 and np.flatnonzero(own[1].view < 0).tolist() == [16]


# What one might believe of the families. Each must be told from the truth, by the function that finds no fault in the truth.


def transposed(claimed: Claimed, _: Size) -> Claimed:
    placed = np.flatnonzero(claimed.view >= 0)
    order = np.arange(len(claimed))
    order[placed] = placed[np.lexsort((claimed.row[placed], claimed.col[placed], claimed.view[placed]))]
    return claimed[order]


def shifted(claimed: Claimed, _: Size) -> Claimed:
    return claimed[np.roll(np.arange(len(claimed)), 1)]


def everywhere(claimed: Claimed, size: Size) -> Claimed:
    return replace(claimed, boxes=np.where(np.isnan(claimed.boxes), np.nan, (0.0, 0.0, *size)))


def crop_ignored(claimed: Claimed, size: Size) -> Claimed:
    low, high = np.tile(claimed.boxes[:, :2].min(axis=0), 2), np.tile(claimed.boxes[:, 2:].max(axis=0), 2)
    return replace(claimed, boxes=(claimed.boxes - low) / (high - low) * np.tile(size, 2))


def base_last(claimed: Claimed, _: Size) -> Claimed:
    return claimed[np.argsort(claimed.view == 0, kind="stable")]


def thumbnail_first(claimed: Claimed, _: Size) -> Claimed:
    return claimed[np.argsort(claimed.view != claimed.view.max(), kind="stable")]


def newline_first(claimed: Claimed, _: Size) -> Claimed:
    grid = np.flatnonzero(claimed.view != 0)
    order = np.arange(len(claimed))
    order[grid] = np.roll(grid, 1)
    return claimed[order]


def tiles_by_column(claimed: Claimed, _: Size) -> Claimed:
    tiles = claimed.view < claimed.view.max()
    corner = np.array([claimed.boxes[claimed.view == view, :2].min(axis=0) for view in claimed.view])
    return claimed[np.lexsort((corner[:, 1] * tiles, corner[:, 0] * tiles, ~tiles))]


def windowed(claimed: Claimed, _: Size) -> Claimed:
    """As if the tower's windows, of two by two cells, were not put back in their places."""
    return claimed[np.lexsort((claimed.col, claimed.row, claimed.col // 2, claimed.row // 2))]


def strips_ignored(claimed: Claimed, _: Size) -> Claimed:
    """As if the features of one tile went on where those of the tile before end."""
    boxes, grid = claimed.boxes.copy(), claimed.view == 1
    for axis, place in ((0, claimed.col), (1, claimed.row)):
        low, cell = boxes[grid, axis].min(), claimed.cell[grid][0, axis]
        boxes[grid, axis], boxes[grid, axis + 2] = low + place[grid] * cell, low + (place[grid] + 1) * cell
    return replace(claimed, boxes=boxes)


ANYRES = ("llava_next", "llava_onevision")
TILED = ("internvl", "internvl3_5")
WRONG: list[tuple[Callable[[Claimed, Size], Claimed], tuple[str, ...]]] = [
    (transposed, TINY),
    (shifted, TINY),
    (everywhere, TINY),
    (crop_ignored, ("llava",)),
    (base_last, ANYRES),
    (newline_first, ANYRES),
    (thumbnail_first, TILED),
    (tiles_by_column, TILED),
    (windowed, ("qwen2_5_vl",)),
]


@cache
def tiny(family: str) -> tuple[Probed, Claimed]:
    return observe(silenced(family), (230, 140))


@pytest.mark.parametrize(
    ("change", "family"), [(change, family) for change, families in WRONG for family in families], ids=lambda p: getattr(p, "__name__", p)
)
def test_a_wrong_map_is_found_out(change: Callable[[Claimed, Size], Claimed], family: str) -> None:
    probed, claimed = tiny(family)
    assert faults(probed, claimed) == []
    assert len(faults(probed, change(claimed, probed.size))) > 8


def test_the_strips_that_no_patch_covers_are_found_out() -> None:
    probed, claimed = released("llava_onevision", (2000, 300))
    assert faults(probed, claimed) == []
    assert len(faults(probed, strips_ignored(claimed, probed.size))) > 4


def test_a_strip_between_mixed_tiles_moves_nothing_and_is_all_that_is_exempt() -> None:
    """Above nine tiles, boxes span the strip between two tiles, and only there a pixel of a box may move no token of the grid."""
    # 1300 x 1000 is fitted into four by three tiles of 384, as 1498 x 1152, with 19 columns of padding on the left. Patches cover 378
    # pixels of a tile; the strip from 378 to 384 holds the columns 311.6 to 316.8 of the picture, and the rows 328.1 to 333.3.
    columns = [[x, y, x + 1, y + 1] for x in (300, 314, 325) for y in (100, 200)]
    rows = [[x, y, x + 1, y + 1] for x in (100, 200) for y in (320, 330, 345)]
    probed, claimed = observe(silenced("llava_onevision", "released"), (1300, 1000), blocks=columns + rows)
    assert faults(probed, claimed) == []
    assert probed.mixed.tolist() == [block[0] == 314 or block[1] == 330 for block in columns + rows]
    moves = probed.moved > 1e-5
    np.testing.assert_array_equal(moves[:, claimed.view == 1].any(axis=1), ~probed.mixed)
    assert moves[:, claimed.view == 0].any(axis=1).all()
    assert len(faults(replace(probed, mixed=np.zeros_like(probed.mixed)), claimed)) >= probed.mixed.sum()


@pytest.mark.parametrize("family", ANYRES)
def test_a_picture_so_wide_that_all_rows_of_tiles_are_padding(family: str) -> None:
    """The whole of it is still shown, squashed; alone and beside another picture."""
    probed, claimed = observe(silenced(family), (674, 31), probes=20)
    assert len(claimed) == 16 and set(claimed.view) == {0} and not claimed.too_fine
    assert faults(probed, claimed) == []
    claimed = observe(silenced(family), (674, 31), (96, 66), probes=6)[1]
    assert (claimed.image_index == 0).sum() == (16 if family == "llava_next" else 17)


def test_a_class_token_stands_for_no_region() -> None:
    vlm = tiny_vlm("llava")
    vlm.hf_model.config.vision_feature_select_strategy = vlm.processor.vision_feature_select_strategy = "full"
    probed, claimed = observe(silence(vlm), (140, 90))
    assert len(claimed) == 17 and np.isnan(claimed.boxes[0]).all()
    assert faults(probed, claimed) == []


def test_a_tower_without_class_token() -> None:
    whole = tiny_vlm("llava")
    config = copy.deepcopy(whole.hf_model.config)
    clip = config.vision_config
    config.vision_config = transformers.SiglipVisionConfig(
        vision_use_head=False,
        **{name: getattr(clip, name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")},
    )
    config.vision_feature_select_strategy = whole.processor.vision_feature_select_strategy = "full"
    whole.processor.num_additional_image_tokens = 0
    torch.manual_seed(0)
    vlm = VLM(transformers.LlavaForConditionalGeneration(config), whole.processor)
    probed, claimed = observe(silence(vlm), (140, 90))
    assert len(claimed) == 16 and not np.isnan(claimed.boxes).any()
    assert faults(probed, claimed) == []


@pytest.mark.parametrize("size", [(140, 90), (60, 200)], ids=str)
def test_a_picture_may_be_padded_to_a_square_first(size: Size) -> None:
    vlm = tiny_vlm("llava")
    edge = {"height": 28, "width": 28}
    vlm.processor.image_processor = transformers.LlavaImageProcessorPil(size={"shortest_edge": 28}, crop_size=edge, do_pad=True)
    probed, claimed = observe(silence(vlm), size)
    np.testing.assert_allclose(np.nanmax(claimed.boxes[:, 2:], axis=0), size, err_msg="nothing is cropped away")
    assert faults(probed, claimed) == []


def test_what_the_processor_says_wins_over_its_image_processor() -> None:
    vlm = silence(tiny_vlm("internvl"))
    before = observe(vlm, (230, 140), probes=8)[1]
    vlm.processor.images_kwargs = {"max_patches": 2}
    probed, claimed = observe(vlm, (230, 140))
    assert before.view.max() > 2 and claimed.view.max() == 2
    assert faults(probed, claimed) == []


def test_without_silencing_the_oracle_would_be_blind() -> None:
    probed, _ = observe(tiny_vlm(), (56, 56), probes=6)
    assert (probed.moved > 1e-3).all()


@pytest.mark.parametrize("size", [(28, 28), (28, 45), (51, 28), (28, 140), (30, 28), (29, 28)], ids=str)
@pytest.mark.parametrize("crop", [(28, 28), (21, 28), (14, 21), (35, 35), (42, 49)], ids=str)
def test_crop_and_padding_are_the_image_processors_to_the_pixel(size: tuple[int, int], crop: tuple[int, int]) -> None:
    """Where the resize does nothing, each patch must hold exactly the pixels of its box; the rest of it is padding."""
    vlm = tiny_vlm()
    images = vlm.processor.image_processor
    images.crop_size = {"height": crop[0], "width": crop[1]}
    picture = np.random.default_rng(0).integers(1, 256, (size[1], size[0], 3)).astype(np.uint8)
    got = images(Image.fromarray(picture), do_normalize=False, do_rescale=False, return_tensors="np")["pixel_values"][0]
    regions = vlm.family.image_regions(vlm.processor, vlm.hf_model.config, size, 0, {})
    assert len(regions) == (crop[0] // 7) * (crop[1] // 7)
    for box, row, col in zip(regions.boxes, regions.row, regions.col, strict=True):
        shown = got[:, row * 7 : row * 7 + 7, col * 7 : col * 7 + 7].transpose(1, 2, 0)
        inside = (shown > 0).all(axis=2)
        if np.isnan(box).any():
            assert not inside.any()
            continue
        x0, y0, x1, y1 = box.astype(int)
        np.testing.assert_array_equal(shown[inside], picture[y0:y1, x0:x1].reshape(-1, 3))


@pytest.mark.parametrize("size", [(100, 61), (61, 200), (333, 500), (7, 900), (1000, 999)], ids=str)
def test_the_resized_size_is_the_image_processors(size: tuple[int, int]) -> None:
    vlm = tiny_vlm()
    images = vlm.processor.image_processor
    images.do_center_crop = False
    got = images(Image.new("RGB", size), return_tensors="np")["pixel_values"][0]
    regions = vlm.family.image_regions(vlm.processor, vlm.hf_model.config, size, 0, {})
    np.testing.assert_allclose(regions.scale[0] * size, got.shape[:0:-1])
