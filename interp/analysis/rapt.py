"""Relative attention per token: how much more (or less) a part of the prompt is looked at than the prompt's average token."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp.analysis.auroc import OverlapRule, evidence_labels
from interp.analysis.blocks import streamed, without_token_labels
from interp.analysis.grounding import Level, at_level, check_level
from interp.analysis.roles import role_coverage

SECTIONS = ("image", "question", "instruction", "system", "template", "evidence", "non-evidence", "anchor", "distractor")


def rapt(ds: xr.Dataset, level: Level = "layer", rule: OverlapRule = "any") -> xr.DataArray:
    """Relative attention per token (paper, section A.2 "RAPT"): mean attention per token of a section over the mean of the whole prompt.

    Parameters
    ----------
    ds
        A trace; `attention` is read in blocks.
    level
        Of every head, or of the heads' mean in each layer (the paper's).
    rule
        Which overlap makes a visual token evidence, anchor or distractor. A token may be two of them, where boxes are close.

    Returns
    -------
    xr.DataArray
        (sample, layer[, head], section), 0 or more; 1 is the prompt's average token. Sections are the segments of the prompt, and among
        the visual tokens `evidence`, `non-evidence` (the rest), `anchor` and `distractor`. NaN where a sample has no such token, or the
        head cannot reach one; `non-evidence` also where there is no evidence, so that the two are always means over the same samples.

    Raises
    ------
    InterpError
        `level` or `rule` is unknown, or the dataset is no trace.
    """
    check_level(level)
    names = ["attention", "coverage", "evidence_box", "evidence_image", "evidence_role", "image_size"]
    names += ["segment", "token_box", "image_index"]

    def compute(block: xr.Dataset) -> xr.DataArray:
        attention = at_level(without_token_labels(block["attention"]), level)
        members = xr.DataArray(_members(block, rule), dims=("sample", "token", "section"), coords={"section": np.array(SECTIONS)})
        inside = (without_token_labels(block["segment"]) >= 0).values  # not past the prompt's end
        ratio = xr.apply_ufunc(
            _relative_means,
            attention,
            members,
            xr.DataArray(inside, dims=("sample", "token")),
            input_core_dims=[["layer", *(["head"] if level == "head" else []), "token"], ["token", "section"], ["token"]],
            output_core_dims=[["layer", *(["head"] if level == "head" else []), "section"]],
        )
        return ratio.transpose("sample", "layer", ..., "section")

    result = streamed(ds, compute, *names).rename(None)
    return result.assign_attrs(
        ds.attrs | {"long_name": "relative attention per token", "units": "1", "overlap_rule": rule, "level": level, "chance": 1.0}
    )


def _relative_means(attention: NDArray[np.floating], members: NDArray[np.bool_], inside: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Mean over each section's tokens over the mean of all tokens: (sample, ..., token), (sample, token, section), (sample, token)."""
    rows = attention.reshape(len(attention), -1, attention.shape[-1])
    masks = np.concatenate([members, inside[..., None]], axis=-1).astype(rows.dtype)
    reached = ~np.isnan(rows)
    sums = np.where(reached, rows, 0) @ masks
    # Nearly always every head reaches the whole prompt, and one count per sample is enough.
    whole = (reached == inside[:, None, :]).all()
    counts = masks.sum(axis=1, keepdims=True) if whole else reached.astype(rows.dtype) @ masks
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / counts
        ratio = means[..., :-1] / means[..., -1:]
    return ratio.reshape(*attention.shape[:-1], members.shape[-1])


def _members(block: xr.Dataset, rule: OverlapRule) -> NDArray[np.bool_]:
    """Which token belongs to which section (sample, token, section)."""
    segment = block["segment"].values
    flags = dict(zip(str(block["segment"].attrs["flag_meanings"]).split(), block["segment"].attrs["flag_values"], strict=True))
    labels = evidence_labels(block["coverage"], rule).values
    evidence = labels == 1
    of_role = {role: evidence_labels(role_coverage(block, role), rule).values == 1 for role in ("anchor", "distractor")}
    parts = {name: segment == flag for name, flag in flags.items()} | of_role
    parts["evidence"], parts["non-evidence"] = evidence, (labels == 0) & evidence.any(axis=1, keepdims=True)
    return np.stack([parts.get(name, np.zeros_like(evidence)) for name in SECTIONS], axis=-1)
