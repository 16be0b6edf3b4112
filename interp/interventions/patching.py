"""Activation patching: where in the run what decides the answer is, layer by layer and token group by token group.

An activation of the clean run is put into the corrupted one; what the answer gains by it was in that place (interchange interventions,
arXiv 2004.12265; logit-difference recovery after arXiv 2211.00593).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from interp.analysis.auroc import OverlapRule, counts_as_evidence
from interp.capture.facts import TEXT, Facts
from interp.capture.labels import static
from interp.capture.progress import track
from interp.decoding import Run, greedy
from interp.encoding import SEGMENTS, Encoding, answer_ids
from interp.errors import BenchmarkError, InterpError
from interp.interventions.interchange import Kept, Patch
from interp.interventions.pairs import Pair, check_alignment
from interp.interventions.targets import forced
from interp.vlm import VLM

Site = Literal["residual", "attention", "mlp", "head"]
Direction = Literal["denoising", "noising"]
Group = Literal["evidence", "other", "image", "question", "last", "all"]

_DEFAULT: tuple[Group, ...] = ("evidence", "other", "question", "last", "all")
_LONG = {
    "residual": "residual stream after the layer",
    "attention": "output of the layer's attention",
    "mlp": "output of the layer's MLP",
    "head": "output of one head, before the output projection",
}


@dataclass(frozen=True, eq=False)
class _Patched:
    """One pair's result: logit differences of the two runs and (layer, group) or (layer, head, group) of the patched ones."""

    clean: float
    corrupted: float
    patched: NDArray[np.float64]
    n_tokens: NDArray[np.float64]
    answers: tuple[str, str]


def patch(
    vlm: VLM,
    pairs: Sequence[Pair],
    *,
    site: str = "residual",
    tokens: str | Sequence[str] | None = None,
    direction: str = "denoising",
    layers: Sequence[int] | None = None,
    rule: OverlapRule = "any",
    min_difference: float = 0.5,
    prompt: str = "base",
    max_new_tokens: int = 16,
    batch_size: int = 16,
    progress: bool | None = None,
) -> xr.Dataset:
    """Put activations of one run of each pair into the other, and measure how far the answer follows.

    Parameters
    ----------
    vlm
        The model.
    pairs
        From `digit_pairs`, `arm_pairs` or `highlight_pairs`, or your own.
    site
        What is patched: ``residual``, the stream after a layer; ``attention`` or ``mlp``, what either adds to it (before a norm behind it,
        where the family has one); ``head``, single heads.
    tokens
        At which positions: groups of ``evidence``, ``other`` (visual tokens that are not evidence), ``image`` (both), ``question``,
        ``last`` (the last prompt position and the answer's) and ``all``; by default all of them but ``image``, and for heads ``all``
        alone. One name instead of several makes no dimension.
    direction
        ``denoising`` puts the clean run's activations into the corrupted run; ``noising`` the corrupted run's into the clean one.
    layers
        Which layers; by default every one.
    rule
        Which overlap makes a token evidence; a token counts that is evidence in either run.
    min_difference
        Pairs whose two runs differ by less, in logits, are NaN.
    prompt
        A wording of `interp.prompts.PROMPTS`, or a text that holds ``{question}``.
    max_new_tokens
        Longest answer, in tokens, where a pair leaves it to the model.
    batch_size
        Patched runs per forward pass.
    progress
        Force a progress bar on or off; by default it shows in terminals and notebooks.

    Returns
    -------
    xr.Dataset
        `recovery` (pair, layer, group), for heads (pair, layer, head[, group]): (LD patched - LD without) / (LD of the run that gives - LD
        without), with LD the logit of the clean answer less that of the corrupted one at the first token where they differ, after the
        tokens they share. 0 where the patch changes nothing and 1 where the answer follows entirely, in either direction. NaN where the
        pair's runs hardly differ (counted by the attribute `n_undefined`) or the group has no token. `logit_diff`, LD patched itself;
        `logit_diff_clean` and `logit_diff_corrupted` (pair); `n_tokens` (pair, group); `clean_answer`, `corrupted_answer`, `kind` (pair),
        and coordinates of the corrupted sample and provenance as in a trace.

    Raises
    ------
    InterpError
        An argument is not understood.
    AlignmentError
        The two prompts of a pair do not match token for token.
    BenchmarkError
        There is no pair, or two of one id.

    Notes
    -----
    Vision features that a family adds between its first layers are added after the patch, from the run that is patched: ``all`` there is
    not the whole of the other run.

    Examples
    --------
    >>> pairs = interp.interventions.digit_pairs(interp.load_benchmark("digits", limit=20))  # doctest: +SKIP
    >>> interp.interventions.patch(vlm, pairs)["recovery"].mean("pair").to_pandas()  # doctest: +SKIP
    """
    vlm.refuse_edits("patch")
    groups = (tokens,) if isinstance(tokens, str) else tuple(tokens or (("all",) if site == "head" else _DEFAULT))
    chosen = list(range(vlm.n_layers)) if layers is None else [int(layer) for layer in layers]
    _check(vlm, site, groups, direction, chosen, min_difference, batch_size)
    if len(pairs) == 0:
        raise BenchmarkError("There are no pairs to patch; check which samples they were made from.")
    heads = list(range(vlm.n_heads)) if site == "head" else [None]
    facts, results = [], []
    for pair in track(pairs, len(pairs), "patching", progress):
        clean, corrupted = vlm.encode(pair.clean, prompt), vlm.encode(pair.corrupted, prompt)
        check_alignment(pair, clean, corrupted)
        fact = replace(Facts.of(pair.corrupted, corrupted), id=pair.id)
        coverage = np.fmax(fact.coverage, Facts.of(pair.clean, clean).coverage)
        at = {group: _positions(group, corrupted, counts_as_evidence(coverage, rule)) for group in groups}
        results.append(_pair(vlm, pair, clean, corrupted, site, at, direction, chosen, heads, max_new_tokens, batch_size))
        facts.append(fact)
    settings: dict[str, Any] = {"intervention": "patching", "site": site, "direction": direction, "groups": groups, "overlap_rule": rule}
    settings |= {"min_difference": min_difference, "prompt": prompt, "max_new_tokens": max_new_tokens}
    # the corrupted samples are told apart as in a trace, their partners here
    partners = json.dumps([[pair.id, pair.clean.id, pair.clean_answer, pair.corrupted_answer] for pair in pairs])
    settings["pairs"] = f"{len(pairs)} pairs, {hashlib.sha256(partners.encode()).hexdigest()[:16]}"
    known = static(facts, vlm, settings).drop_dims(("token", "layer", "head")).drop_vars("n_token").rename(sample="pair")
    result = _labelled(known, pairs, results, groups, chosen, site, min_difference, vlm)
    single = isinstance(tokens, str) or (tokens is None and site == "head")
    return result.isel(group=0) if single else result


def _check(
    vlm: VLM, site: str, groups: Sequence[str], direction: str, layers: Sequence[int], min_difference: float, batch_size: int
) -> None:
    for name, value, known in (("site", site, get_args(Site)), ("direction", direction, get_args(Direction))):
        if value not in known:
            raise InterpError(f"{name}={value!r} is unknown; use {', '.join(known)}.")
    unknown = next((group for group in groups if group not in get_args(Group)), None)
    if unknown is not None or not groups or len(set(groups)) < len(groups):
        what = f"Token group {unknown!r} is unknown" if unknown is not None else f"tokens={tuple(groups)} names none, or one twice"
        raise InterpError(f"{what}; use some of {', '.join(get_args(Group))}.")
    wrong = next((layer for layer in layers if not 0 <= layer < vlm.n_layers), None)
    if wrong is not None or not layers or len(set(layers)) < len(layers):
        raise InterpError(f"layers={list(layers)} must name each layer once, from 0 to {vlm.n_layers - 1}.")
    if not min_difference > 0:
        raise InterpError(f"min_difference={min_difference} would divide by nothing; give more than 0.")
    if batch_size < 1:
        raise InterpError(f"batch_size={batch_size} is not a number of runs; give 1 or more.")


def _positions(group: str, encoding: Encoding, evidence: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Prompt positions of a group; for ``last`` and ``all`` the answer's are to follow."""
    image = encoding.segment == SEGMENTS.index("image")
    if group in ("last", "all"):
        return np.arange(len(encoding))[-1 if group == "last" else 0 :]
    masks = {"evidence": evidence, "other": image & ~evidence, "image": image, "question": encoding.segment == SEGMENTS.index("question")}
    return np.flatnonzero(masks[group])


@torch.no_grad()
def _pair(
    vlm: VLM,
    pair: Pair,
    clean: Encoding,
    corrupted: Encoding,
    site: str,
    groups: Mapping[str, NDArray[np.intp]],
    direction: str,
    layers: Sequence[int],
    heads: Sequence[int | None],
    max_new_tokens: int,
    batch_size: int,
) -> _Patched:
    right = [*answer_ids(vlm.processor, corrupted.text, pair.clean_answer), vlm.end_tokens[0]]
    wrong = _foil(vlm, pair, corrupted, max_new_tokens)
    answers = (pair.clean_answer, pair.corrupted_answer or vlm.decode(torch.as_tensor(wrong)[None])[0])
    shape = (len(layers), len(heads), len(groups))
    n_tokens = np.array([len(positions) for positions in groups.values()], dtype=np.float64)
    step = next((i for i, (a, b) in enumerate(zip(right, wrong, strict=False)) if a != b), None)
    if step is None:  # both runs are to say the same
        return _Patched(np.nan, np.nan, np.full(shape, np.nan), n_tokens, answers)
    given, taken = (clean, corrupted) if direction == "denoising" else (corrupted, clean)
    source = Kept(vlm, forced(vlm, given, right[:step]), site, right[step], wrong[step])
    base = Kept(vlm, forced(vlm, taken, right[:step]), "residual", right[step], wrong[step])
    answer = range(len(clean), len(clean) + step)
    full = [[*positions, *(answer if group in ("last", "all") else ())] for group, positions in groups.items()]
    places = [(i, j, k) for i in range(len(layers)) for j in range(len(heads)) for k, positions in enumerate(full) if positions]
    places.sort(key=lambda place: layers[place[0]])
    patched = np.full(shape, np.nan)
    for start in range(0, len(places), batch_size):
        part = places[start : start + batch_size]
        runs = [Patch(layers[i], torch.as_tensor(full[k], device=vlm.device), heads[j]) for i, j, k in part]
        patched[tuple(np.array(part).T)] = base.patched(source, runs)
    found = (source.logit_diff, base.logit_diff) if direction == "denoising" else (base.logit_diff, source.logit_diff)
    return _Patched(*found, patched, n_tokens, answers)


def _foil(vlm: VLM, pair: Pair, corrupted: Encoding, max_new_tokens: int) -> list[int]:
    if pair.corrupted_answer is not None:
        return [*answer_ids(vlm.processor, corrupted.text, pair.corrupted_answer), vlm.end_tokens[0]]
    run = Run.start(vlm.hf_model, vlm.batch([corrupted]))
    outputs = vlm.hf_model(**run.prefill_inputs(), logits_to_keep=1, return_dict=True)
    return greedy(run, outputs, vlm.end_tokens, vlm.pad_token, max_new_tokens).ids[0].tolist()


def _labelled(
    known: xr.Dataset,
    pairs: Sequence[Pair],
    results: Sequence[_Patched],
    groups: Sequence[str],
    layers: Sequence[int],
    site: str,
    min_difference: float,
    vlm: VLM,
) -> xr.Dataset:
    clean, corrupted = (np.array([getattr(result, name) for result in results]) for name in ("clean", "corrupted"))
    patched = np.stack([result.patched for result in results])
    apart = np.abs(clean - corrupted) >= min_difference  # NaN is not
    denoising = known.attrs["direction"] == "denoising"
    base, source = (corrupted, clean) if denoising else (clean, corrupted)
    span = np.where(apart, source - base, np.nan)[:, None, None, None]
    recovery = (patched - base[:, None, None, None]) / span
    dims = ("pair", "layer", "head", "group")
    described = f"share of the logit difference {'recovered' if denoising else 'undone'}, patching the {_LONG[site]}"

    def text(values: Sequence[str], long_name: str) -> Any:
        return ("pair", np.array(values, dtype=TEXT), {"long_name": long_name})

    difference = "logit of the clean answer less that of the corrupted one"
    variables: dict[str, Any] = {
        "recovery": (dims, recovery, {"long_name": described, "units": "1"}),
        "logit_diff": (dims, patched, {"long_name": f"{difference}, patched run", "units": "1"}),
        "logit_diff_clean": ("pair", clean, {"long_name": f"{difference}, clean run", "units": "1"}),
        "logit_diff_corrupted": ("pair", corrupted, {"long_name": f"{difference}, corrupted run", "units": "1"}),
        "n_tokens": (("pair", "group"), np.stack([result.n_tokens for result in results]), {"long_name": "tokens", "units": "token"}),
        "clean_answer": text([result.answers[0] for result in results], "answer of the clean run"),
        "corrupted_answer": text([result.answers[1] for result in results], "answer it competes with"),
        "kind": text([pair.kind for pair in pairs], "what the two runs differ in"),
    }
    coordinates = {
        "layer": ("layer", np.array(layers)),
        "layer_kind": ("layer", np.array([vlm.layer_kinds[layer] for layer in layers], dtype=TEXT)),
        "group": ("group", np.array(groups, dtype=TEXT), {"long_name": "tokens patched"}),
    }
    result = known.assign(variables).assign_coords(coordinates)
    result = result.assign_coords(head=np.arange(vlm.n_heads)) if site == "head" else result.isel(head=0)
    return result.assign_attrs(n_undefined=int((~apart).sum()))
