"""Pairs of questions for activation patching: alike token for token, but for what decides the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from interp.analysis import Profile
from interp.benchmarks.digits import ARMS, another_digit
from interp.benchmarks.sample import Sample
from interp.encoding import Encoding
from interp.errors import AlignmentError, InterpError
from interp.interventions.evidence import evidence_map
from interp.interventions.highlight import highlight


@dataclass(frozen=True, eq=False)
class Pair:
    """A clean and a corrupted question.

    Parameters
    ----------
    id
        A name of its own.
    clean, corrupted
        The two questions. Their prompts must be as long as each other, part for part.
    clean_answer, corrupted_answer
        The answers that compete. None: what the model itself says to the corrupted question.
    kind
        What the two differ in.
    """

    id: str
    clean: Sample
    corrupted: Sample
    clean_answer: str
    corrupted_answer: str | None = None
    kind: str = "custom"


def digit_pairs(bench: Sequence[Sample], seed: int = 0) -> list[Pair]:
    """The same scene with another digit on the asked card; see `interp.benchmarks.digits.another_digit`.

    Parameters
    ----------
    bench
        Samples of `digits`. Those about a card that is not there are left out.
    seed
        Chooses the digits.

    Raises
    ------
    BenchmarkError
        A sample is not of `digits`.
    """
    pairs = []
    for sample in bench:
        if not sample.knobs.get("absent", False):
            other = another_digit(sample, seed)
            pairs.append(Pair(sample.id, sample, other, sample.references[0], other.references[0], "digit"))
    return pairs


def arm_pairs(bench: Sequence[Sample], clean: str = "neutral", corrupted: str = "conflict") -> list[Pair]:
    """The same scene and digit on cards of two colours, of which the corrupted one's speaks for another digit.

    Parameters
    ----------
    bench
        Samples of `digits`; scenes that lack one of the two arms are left out.
    clean, corrupted
        The arms: ``congruent``, ``neutral`` or ``conflict``.

    Returns
    -------
    list of Pair
        The corrupted answer is the digit that the corrupted card's colour had in training; where that is none or the right one, what the
        model says.

    Raises
    ------
    InterpError
        An arm is unknown, or both are the same.
    """
    if clean == corrupted or not {clean, corrupted} <= set(ARMS):
        raise InterpError(f"Arms {clean!r} and {corrupted!r} make no pair; use two different ones of {', '.join(ARMS)}.")
    scenes: dict[str, dict[str, Sample]] = {}
    for sample in bench:
        if sample.knobs.get("arm") in (clean, corrupted):
            scenes.setdefault(sample.image_id, {})[str(sample.knobs["arm"])] = sample
    pairs = []
    for arms in scenes.values():
        if len(arms) == 2:
            right, prior = arms[clean].references[0], int(arms[corrupted].knobs.get("prior_digit", -1))
            foil = str(prior) if prior >= 0 and str(prior) != right else None
            pairs.append(Pair(arms[corrupted].id, arms[clean], arms[corrupted], right, foil, f"{clean} to {corrupted}"))
    return pairs


def highlight_pairs(
    bench: Sequence[Sample],
    traced: xr.Dataset,
    profile: Profile,
    *,
    alpha: float = 0.5,
    sigma: float = 0.5,
    lam: float = 10.0,
    allow_overlap: bool = False,
) -> list[Pair]:
    """The picture highlighted by the profiled attention (VEA, paper Eqs. 1-4) as the clean run of the plain picture.

    Question and wording stay the same, so that only the picture differs.

    Parameters
    ----------
    bench
        Samples with an answer in the picture.
    traced
        Their trace under the same prompt, in any order.
    profile
        The visual-grounding layers.
    alpha, sigma, lam
        As in `interp.evaluate`.
    allow_overlap
        Accept a profile fitted on some of these pictures; the pairs' `kind` records which.

    Returns
    -------
    list of Pair
        The clean answer is the reference, the corrupted one what the model says to the plain picture; a model that is right about the
        plain picture has nothing to recover.

    Raises
    ------
    InterpError
        The trace lacks a sample, or the profile cannot judge it (`Profile.check`).
    """
    profile.check(traced.attrs, [sample.image_id for sample in bench], allow_overlap=allow_overlap)
    fitted = set(profile.image_ids)
    place = {str(name): index for index, name in enumerate(traced["sample"].values)}
    pairs = []
    for sample in bench:
        if sample.id not in place:
            raise InterpError(f"Sample {sample.id!r} is not in the trace; trace this very benchmark.")
        one = traced.isel(sample=place[sample.id]).load()
        pictures = sample.open_images()
        maps = (evidence_map(one, profile, image_index=index, sigma=sigma, lam=lam) for index in range(len(pictures)))
        shown = [highlight(picture, each, alpha) for picture, each in zip(pictures, maps, strict=True)]
        clean = Sample(
            f"{sample.id}-highlighted",
            shown,
            sample.question,
            sample.references,
            sample.regions,
            image_id=sample.image_id,
            dataset=sample.dataset,
            split=sample.split,
            knobs=sample.knobs,
        )
        kind = "highlighted to plain" + (", profile fitted on this picture" if sample.image_id in fitted else "")
        pairs.append(Pair(sample.id, clean, sample, sample.references[0], None, kind))
    return pairs


def check_alignment(pair: Pair, clean: Encoding, corrupted: Encoding) -> None:
    """Refuse a pair whose prompts do not match token for token: what is patched would come from another place.

    Raises
    ------
    AlignmentError
        Lengths, parts of the prompt, or the tokens' places in the pictures differ.
    """
    if len(clean) != len(corrupted):
        what = f"the prompts have {len(clean)} and {len(corrupted)} tokens"
    elif (clean.segment != corrupted.segment).any():
        what = f"the prompts differ in what their tokens are from token {int(np.argmax(clean.segment != corrupted.segment))} on"
    elif any((getattr(clean, name) != getattr(corrupted, name)).any() for name in ("view", "row", "col", "image_index")):
        what = "the visual tokens stand for other places"
    else:
        return
    raise AlignmentError(
        f"Pair {pair.id!r} cannot be patched: {what}; use pictures of one size and questions of as many tokens, or leave the pair out."
    )
