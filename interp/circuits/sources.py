"""Where on the picture a head writes from, beside where it looks."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import xarray as xr

from interp.analysis.auroc import OverlapRule, auroc, evidence_labels
from interp.analysis.blocks import streamed, without_token_labels
from interp.errors import InterpError

Sign = Literal["positive", "magnitude", "negative"]

PARTS = ("evidence", "image", "question", "other", "answer")


def write_grounding(attribution: xr.Dataset, sign: Sign = "positive", rule: OverlapRule = "any") -> xr.Dataset:
    """How well what a head writes, and where it looks, finds the evidence among the visual tokens.

    What a head writes from a token has a sign, and a ranking needs one number, so one of three questions is asked. ``positive``: does
    what speaks for the reference come from the evidence (tokens that speak against it tie, last)? ``negative``: does what speaks for
    the foil? ``magnitude``: does what moves the two apart, either way? A head that hardly writes has a ranking all the same: weigh it by
    `direct`, or see `write_by_part`. Since `write` is attention times what would be written, the two rankings are not independent.

    Parameters
    ----------
    attribution
        As `attribute` gives it, with its sources.
    sign
        Which of the three.
    rule
        Which overlap makes a token evidence.

    Returns
    -------
    xr.Dataset
        `write` and `look` (sample, layer, head), AUROC of each on evidence tokens, in [0, 1], chance 0.5. NaN where a sample has no
        evidence token or no other, no foil (`write` only), or where a head does not reach them.

    Raises
    ------
    InterpError
        `sign` or `rule` is unknown, the dataset has no sources, or no sample has an evidence token.
    """
    if sign not in get_args(Sign):
        raise InterpError(f"sign={sign!r} is unknown; use {', '.join(get_args(Sign))}.")
    _check_sources(attribution)
    write = attribution["write"]
    scores = {"positive": write.clip(min=0), "negative": (-write).clip(min=0), "magnitude": np.abs(write)}[sign]
    found = {
        "write": auroc(scores, attribution["coverage"], rule).assign_attrs(long_name=f"AUROC of what the head writes ({sign}) on evidence"),
        "look": auroc(attribution["attention"], attribution["coverage"], rule),
    }
    return xr.Dataset(found, attrs=attribution.attrs | {"sign": sign, "overlap_rule": rule})


def write_by_part(attribution: xr.Dataset, rule: OverlapRule = "any") -> xr.DataArray:
    """How much of the logit difference each head carries from each part of the prompt.

    Parameters
    ----------
    attribution
        As `attribute` gives it, with its sources.
    rule
        Which overlap makes a token evidence.

    Returns
    -------
    xr.DataArray
        (sample, layer, head, part), in logits, positive towards the reference; parts are `evidence`, `image` (the other visual tokens),
        `question`, `other` (the rest of the prompt) and `answer` (tokens said before the one that is read), and sum to the head's share.
        `evidence` and `image` are NaN for a sample without an evidence token, and all are for one without a foil.

    Raises
    ------
    InterpError
        `rule` is unknown, or the dataset has no sources.
    """
    _check_sources(attribution)
    flags = dict(zip(str(attribution["segment"].attrs["flag_meanings"]).split(), attribution["segment"].attrs["flag_values"], strict=True))

    def compute(block: xr.Dataset) -> xr.DataArray:
        segment, write = without_token_labels(block["segment"]), without_token_labels(block["write"])
        evidence = evidence_labels(without_token_labels(block["coverage"]), rule) == 1
        image, question = segment == flags["image"], segment == flags["question"]
        undefined = without_token_labels(block["write_answer"]).isnull()
        found = {
            "evidence": evidence,
            "image": image & ~evidence,
            "question": question,
            "other": ~image & ~question,
        }
        sums = [write.where(members).sum("token", skipna=True) for members in found.values()]
        known = [evidence.any("token"), evidence.any("token"), True, True]
        parts = [value.where(~undefined & defined) for value, defined in zip(sums, known, strict=True)]
        return xr.concat([*parts, without_token_labels(block["write_answer"])], dim=xr.Variable("part", np.array(PARTS)), coords="minimal")

    found = streamed(attribution, compute, "write", "write_answer", "coverage", "segment")
    described = {"long_name": "what the head carries to the logit difference", "units": "logit", "overlap_rule": rule}
    return found.transpose("sample", "layer", "head", "part").rename(None).assign_attrs(attribution.attrs | described)


def _check_sources(attribution: xr.Dataset) -> None:
    missing = [name for name in ("write", "write_answer", "attention", "coverage", "segment") if name not in attribution.variables]
    if missing:
        raise InterpError(f"The attribution has no {missing[0]!r}; make it with interp.circuits.attribute(..., sources=True).")
