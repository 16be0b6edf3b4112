"""AGLA: the answer from the original picture, supported by what it would be from the attended part alone (arXiv 2406.12718)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from interp.methods.batch import Batch, Reply
from interp.methods.contrast import contrastive
from interp.methods.gradcam import gradcam
from interp.methods.method import Method
from interp.methods.own_tokens import middle_layer, visual, visual_tokens
from interp.methods.token_picture import token_picture

_Floats = NDArray[np.float64]

_BLUR = 0.02  # of the longer side
_WEIGHT, _PLAUSIBILITY = 2.0, 0.5


def kept_share(similarity: float) -> float:
    """The share of pixels that stays visible, ``min(1 - similarity / 2, 1 - 1e-5)``: half of them at least."""
    return min(1 - similarity / 2, 1 - 1e-5)


def masked(picture: Image.Image, relevance: _Floats, keep: float) -> Image.Image:
    """The picture with its least relevant pixels black.

    Parameters
    ----------
    picture
        The original.
    relevance
        (height, width), of the picture's size; a pixel that is NaN stays.
    keep
        Share of the other pixels that stays, the most relevant ones; pixels as relevant as the last of these stay as well.
    """
    smooth = gaussian_filter(np.where(np.isnan(relevance), np.nanmin(relevance), relevance), _BLUR * max(picture.size), mode="nearest")
    known = ~np.isnan(relevance)
    stays = ~known | (smooth >= np.sort(smooth[known])[-max(1, round(keep * known.sum()))])
    return Image.fromarray(np.where(stays[:, :, None], np.asarray(picture.convert("RGB")), 0).astype(np.uint8))


def attributed(batch: Batch) -> tuple[Sequence[NDArray[np.floating]], NDArray[np.float64]]:
    """Per sample, (token,) GradCAM on the visual tokens under the base prompt; and the probability of the first answer token."""
    return batch.shared.once("gradcam", lambda: _attributed(batch))


def _attributed(batch: Batch) -> tuple[Sequence[NDArray[np.floating]], NDArray[np.float64]]:
    encodings = [batch.vlm.encode(sample) for sample in batch.samples]
    found, probability = gradcam(batch.vlm, encodings, middle_layer(batch.vlm))
    batch.processed({encoding.sample_id: 3 * len(encoding) for encoding in encodings})  # forwards, and backwards for two
    return [values[visual(batch, k)] for k, values in enumerate(found)], probability


def _answer(batch: Batch) -> Sequence[Reply]:
    vlm = batch.vlm
    shown, kept = [], []
    for k, (sample, values, probability) in enumerate(zip(batch.samples, *attributed(batch), strict=True)):
        tokens, keep = visual_tokens(batch, k), kept_share(float(probability))
        pictures = [masked(one, token_picture(values, tokens, i), keep) for i, one in enumerate(sample.open_images())]
        shown.append(replace(sample, images=tuple(pictures)))
        kept.append(keep)
    first, other = batch.branch(), batch.begin([vlm.encode(sample) for sample in shown])
    said = contrastive(first, other, vlm.end_tokens, vlm.pad_token, batch.options.max_new_tokens, _WEIGHT, _PLAUSIBILITY)
    batch.processed({sample.id: 2.0 * (len(ids) - 1) for sample, ids in zip(batch.samples, said, strict=True)})
    return [Reply(ids, {"kept_pixels": keep}) for ids, keep in zip(said, kept, strict=True)]


AGLA = Method(
    "agla",
    "logits of the original picture plus 2 times those of it masked by GradCAM of the answering model itself (not of a matching model), "
    "tokens under 0.5 of the best one's probability left out, greedy, base prompt",
    _answer,
    records={"kept_pixels": ()},
    forms=("base",),
)
"""Source: arXiv 2406.12718 and its code: GradCAM, resized by cubic splines and blurred (0.02 of the longer side), the top share of pixels
kept and the rest black; ``logit(original) + 2 * logit(masked)`` among tokens with a logit of at least ``log 0.5`` plus the best.

Deviations: there GradCAM is of BLIP-ITM (cross-attention layer 6, mean over heads and over the question's tokens); no matching model is at
hand here, so it is of the answering model itself: attention times its positive gradient of the log-probability of the first answer token,
mean over heads, the last prompt token alone, middle layer (the nearest that no sliding window cuts off). It is not stretched from 0 to 1,
as only its order counts. The share kept is theirs, ``min(1 - s / 2, 1 - 1e-5)``, but for want of an image-text similarity s is the
probability of that first answer token. The mask lies on the original picture, not on one of 384 x 384. Decoding is greedy, where they
sample. No log-probability of the references is given, since what is decoded from is no distribution of a prompt.

Cost: the original's prefill is the one that `base` answers from. GradCAM's is another, as it needs a graph, which that one has not kept.
"""
