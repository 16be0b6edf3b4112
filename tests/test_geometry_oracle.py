"""Each family's map from tokens to pixels, proved by an oracle that shares no code with it.

The vision tower's attention is silenced, so that a patch is only itself. Then blocks of the original picture are changed one by one, and
the image tokens that change, as they enter the first decoder layer, show which region each of them stands for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from interp.benchmarks.sample import Sample
from interp.families import family_names
from interp.testing import tiny_vlm
from interp.vlm import VLM

SIZES = [(56, 28), (28, 56), (30, 66), (50, 34), (45, 45), (131, 30), (29, 150), (28, 28), (20, 61)]
Influence = NDArray[np.float64]
Boxes = NDArray[np.float64]


@cache
def silenced(family: str) -> VLM:
    vlm = tiny_vlm(family)
    tower = getattr(vlm.hf_model.model, "vision_tower", None) or vlm.hf_model.model.visual
    outputs = ("out_proj", "projection_layer", "proj")
    mixing = [m for name, m in tower.named_modules() if name.split(".")[-1] in outputs and ("attn" in name or "attention" in name)]
    assert mixing, "the tower's attention was not found"
    with torch.no_grad():
        for module in mixing:
            module.weight.zero_()
            if module.bias is not None:
                module.bias.zero_()
    return vlm


def image_embeddings(vlm: VLM, picture: NDArray[np.uint8]) -> tuple[torch.Tensor, Boxes]:
    """Image tokens as they enter the first decoder layer (token, feature), and the boxes the family claims for them."""
    encoding = vlm.encode(Sample("s", Image.fromarray(picture), "what", "one"))
    seen: list[torch.Tensor] = []
    handle = vlm.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        vlm.hf_model(**encoding.inputs)
    handle.remove()
    at = np.flatnonzero(encoding.token_ids == vlm.hf_model.config.image_token_id)
    return seen[0][0, torch.as_tensor(at)], encoding.token_boxes[at]


@cache
def oracle(family: str, width: int, height: int) -> tuple[Influence, Boxes, float]:
    """How much each block of the picture moves each token (token, down, across), the claimed boxes, and the block's side."""
    vlm = silenced(family)
    block = 2 if width * height < 3000 else 5
    picture = np.random.default_rng(3).integers(90, 150, (height, width, 3)).astype(np.uint8)
    plain, boxes = image_embeddings(vlm, picture)
    influence = np.zeros((len(plain), -(-height // block), -(-width // block)))
    for i in range(influence.shape[1]):
        for j in range(influence.shape[2]):
            changed = picture.copy()
            patch = changed[i * block : (i + 1) * block, j * block : (j + 1) * block]
            patch[:] = 255 - patch // 2
            influence[:, i, j] = (image_embeddings(vlm, changed)[0] - plain).norm(dim=-1).numpy()
    return influence, boxes, block


def faults(family: str, size: tuple[int, int], change: Callable[[Boxes], Boxes] = lambda boxes: boxes) -> list[str]:
    """What the oracle says against a family's boxes, after `change`."""
    influence, claimed, block = oracle(family, *size)
    boxes = change(claimed)
    # Resampling spreads a pixel over its kernel: about two processed pixels, which are this many original ones.
    edge = silenced(family).hf_model.config.vision_config.image_size
    margin = 2.0 * max(1.0, min(size) / edge) + 1
    found = []
    for token, (map_, box) in enumerate(zip(influence, boxes, strict=True)):
        if np.isnan(box).any():
            found += [f"token {token} has no region but moves"] * bool(map_.max() > 0)
            continue
        rows, cols = np.nonzero(map_ > 0.02 * map_.max())
        if not len(rows):
            found.append(f"token {token} never moves")
            continue
        moved = np.array([cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]) * block
        if (moved[:2] < box[:2] - margin - block).any() or (moved[2:] > box[2:] + margin + block).any():
            found.append(f"token {token} moves outside its box")
        peak = (np.array(np.unravel_index(map_.argmax(), map_.shape))[::-1] + 0.5) * block
        if (peak < box[:2] - block).any() or (peak > box[2:] + block).any():
            found.append(f"token {token} peaks outside its box")
        weights = map_ / map_.sum()
        centre = np.array([weights.sum(0) @ np.arange(map_.shape[1]), weights.sum(1) @ np.arange(map_.shape[0])]) * block + block / 2
        if (np.abs(centre - (box[:2] + box[2:]) / 2) > 0.3 * (box[2:] - box[:2]) + block / 2).any():
            found.append(f"token {token} is centred elsewhere")
    return found


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("family", family_names())
def test_the_map_is_right(family: str, size: tuple[int, int]) -> None:
    assert faults(family, size) == []


def transposed(boxes: Boxes) -> Boxes:
    side = int(len(boxes) ** 0.5)
    return boxes.reshape(side, side, 4).transpose(1, 0, 2).reshape(-1, 4)


def shifted(boxes: Boxes) -> Boxes:
    return np.roll(boxes, 1, axis=0)


def squashed(boxes: Boxes) -> Boxes:
    """As if the whole picture were squashed into the square: the crop forgotten."""
    low, high = np.nanmin(boxes, axis=0)[:2], np.nanmax(boxes, axis=0)[2:]
    return (boxes - [*low, *low]) / [*(high - low), *(high - low)] * [131, 30, 131, 30]


@pytest.mark.parametrize("size", [(30, 66), (45, 45), (131, 30)], ids=str)
@pytest.mark.parametrize("change", [transposed, shifted])
def test_a_wrong_map_is_seen(change: Callable[[Boxes], Boxes], size: tuple[int, int]) -> None:
    assert len(faults("llava", size, change)) > 8


def test_a_forgotten_crop_is_seen() -> None:
    assert len(faults("llava", (131, 30), squashed)) > 8


def test_without_silencing_the_oracle_would_be_blind() -> None:
    vlm = tiny_vlm()
    picture = np.full((28, 28, 3), 128, dtype=np.uint8)
    changed = picture.copy()
    changed[:3, :3] = 255
    moved = (image_embeddings(vlm, changed)[0] - image_embeddings(vlm, picture)[0]).norm(dim=-1)
    assert (moved > 0).all()


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
