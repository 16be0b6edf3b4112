"""Attention knock-out: what an answer loses when it may no longer look at the evidence, layer window by layer window.

Attention on the evidence says where a model looks; blocking it says whether the answer depended on it (after Geva et al.,
arXiv 2304.14767). Fewer edges of any kind may hurt, so the evidence is compared with as many random visual tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp.analysis.auroc import OverlapRule, counts_as_evidence
from interp.benchmarks.sample import Sample
from interp.capture.facts import TEXT, Facts, identify
from interp.capture.progress import track
from interp.encoding import SEGMENTS, Encoding
from interp.errors import BenchmarkError, InterpError
from interp.interventions.edges import Cut, Edges, serving_edges
from interp.interventions.targets import Target, find_targets, forced, with_targets
from interp.vlm import VLM

Block = Literal["evidence", "control", "question", "image", "other"]
To = Literal["last", "question", "text"]

_EFFECTS = {
    "delta_logprob": ("change of the reference's log-probability", "nat"),
    "delta_logit_diff": ("change of the reference's logit less the foil's", "1"),
    "flip": ("share of runs in which the most probable token of a step changes", "1"),
}
_Keys = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Effect:
    """One sample's result: values (effect, block, layer), and of every control draw (effect, draw, layer)."""

    values: NDArray[np.float64]
    draws: NDArray[np.float64]
    n_blocked: NDArray[np.float64]
    clean: tuple[float, float]


def knockout(
    vlm: VLM,
    bench: Sequence[Sample],
    *,
    block: str | Sequence[str] = ("evidence", "control", "question"),
    to: str = "last",
    window: int = 9,
    rule: OverlapRule = "any",
    n_controls: int = 5,
    prompt: str = "base",
    max_new_tokens: int = 16,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool | None = None,
) -> xr.Dataset:
    """Block attention edges in a window of layers around every layer, and measure what the answer loses.

    Exact in every family: a layer's own mask (causal, sliding, pictures that see themselves) stays, and only the chosen edges are taken
    from it. A token always keeps the edge to itself. An edge that a mask forbids anyway is no loss: its effect is exactly 0.

    Parameters
    ----------
    vlm
        The model.
    bench
        A benchmark, or any sequence of samples.
    block
        Which tokens are hidden: ``evidence``; ``control``, as many random visual tokens that are not evidence; ``question``; ``image``,
        all tokens of all pictures; ``other``, those of them that are not evidence.
    to
        From whom: ``last``, the last prompt position and the answer's; ``question``, the question's tokens; or ``text``, every token that
        is not a picture's, so that no way round is left: what a picture says can then reach the answer only from layers outside the
        window.
    window
        How many layers, centred at each layer and cut off at the first and the last. (Of an even number, one more lies behind the centre.)
        With as many as the model has, or more, it is all of them.
    rule
        Which overlap makes a token evidence.
    n_controls
        Draws of `control`, of which the mean is taken.
    prompt
        A wording of `interp.prompts.PROMPTS`, or a text that holds ``{question}``.
    max_new_tokens
        Longest answer, in tokens, from which a foil is taken.
    batch_size
        Runs with blocked edges that share a pass through the layers.
    seed
        Draws the controls, together with the sample's id: they do not depend on the other samples.
    progress
        Force a progress bar on or off; by default it shows in terminals and notebooks.

    Returns
    -------
    xr.Dataset
        (sample, block, layer), `layer` the window's centre: `delta_logprob`, the change of `reference_logprob`, nats; `delta_logit_diff`,
        that of `logit_diff`, the reference's logit less the foil's at the first token where they differ (the foil is the model's own
        wrong answer, or for right answers the runner-up); `flip`, 1 where the most probable token of any step of the reference changes.
        A control's are means over its draws; the draws themselves are `control_delta_logprob` and `control_delta_logit_diff`
        (sample, draw, layer). `n_blocked` (sample, block) tokens; `reference_logprob` and `logit_diff` (sample) of the plain run.
        Samples without evidence are NaN in `evidence`, `control` and `other`, and those with less other visual tokens than evidence in
        `control`; the attribute `n_undefined` counts the former. Coordinates and provenance as in a trace.

    Raises
    ------
    InterpError
        An argument is not understood.
    BenchmarkError
        The benchmark has no sample, or two of one id.
    CaptureError
        The model's decoder does more than its layers.

    Notes
    -----
    Control tokens are scattered over the pictures, evidence is not.

    Examples
    --------
    >>> effect = interp.interventions.knockout(vlm, bench)  # doctest: +SKIP
    >>> effect["delta_logprob"].mean("sample").to_pandas()  # doctest: +SKIP
    """
    vlm.refuse_edits("knockout")
    blocks = (block,) if isinstance(block, str) else tuple(block)
    _check(blocks, to, window, n_controls, batch_size)
    if len(bench) == 0:
        raise BenchmarkError("The benchmark has no samples; check its split and its limit.")
    identify(bench)  # refuses an id that occurs twice, before the work
    windows = [_window(layer, window, vlm.n_layers) for layer in range(vlm.n_layers)]
    facts: list[Facts] = []
    targets: list[Target] = []
    effects: list[_Effect] = []
    with serving_edges(vlm.hf_model):
        for sample in track(bench, len(bench), "knock-out", progress):
            encoding = vlm.encode(sample, prompt)
            fact = Facts.of(sample, encoding)
            target = find_targets(vlm, [sample], [encoding], max_new_tokens)[0]
            rng = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(sample.id.encode()).digest()[:8])])
            keys = {name: _hidden(name, fact, rule, n_controls, rng) for name in blocks}
            effects.append(_effect(vlm, encoding, target, to, keys, windows, n_controls, batch_size))
            facts.append(fact)
            targets.append(target)
    settings: dict[str, Any] = {"intervention": "knockout", "block": blocks, "to": to, "window": window, "overlap_rule": rule}
    settings |= {"n_controls": n_controls, "seed": seed, "prompt": prompt, "max_new_tokens": max_new_tokens}
    undefined = sum(not _evidence(fact, rule).any() for fact in facts)
    return _labelled(with_targets(facts, targets, vlm, settings), effects, blocks, vlm).assign_attrs(n_undefined=undefined)


def _check(blocks: Sequence[str], to: str, window: int, n_controls: int, batch_size: int) -> None:
    unknown = next((name for name in blocks if name not in get_args(Block)), None)
    if unknown is not None or not blocks or len(set(blocks)) < len(blocks):
        what = f"Block {unknown!r} is unknown" if unknown is not None else f"block={tuple(blocks)} names none, or one twice"
        raise InterpError(f"{what}; use some of {', '.join(get_args(Block))}.")
    if to not in get_args(To):
        raise InterpError(f"to={to!r} is unknown; use {', '.join(get_args(To))}.")
    for name, value in {"window": window, "n_controls": n_controls, "batch_size": batch_size}.items():
        if value < 1:
            raise InterpError(f"{name}={value} is not a number to work with; give 1 or more.")


def _window(layer: int, width: int, n_layers: int) -> range:
    if width >= n_layers:
        return range(n_layers)
    return range(max(0, layer - (width - 1) // 2), min(n_layers, layer + width // 2 + 1))


def _evidence(fact: Facts, rule: OverlapRule) -> NDArray[np.bool_]:
    return counts_as_evidence(fact.coverage, rule)


def _hidden(name: str, fact: Facts, rule: OverlapRule, n_controls: int, rng: np.random.Generator) -> list[_Keys]:
    """The token sets of a block: one, or the draws of a control, or none where the sample has no such tokens."""
    evidence, image = _evidence(fact, rule), fact.segment == SEGMENTS.index("image")
    if name == "question":
        return [_positions(fact.segment == SEGMENTS.index("question"))]
    if name == "image":
        return [_positions(image)]
    if not evidence.any():
        return []
    if name == "evidence":
        return [_positions(evidence)]
    if name == "other":
        return [_positions(image & ~evidence)]
    # separators stand for no region, so they are no match for evidence
    rest, n = np.flatnonzero(~np.isnan(fact.coverage) & ~evidence), int(evidence.sum())
    return [tuple(np.sort(rng.choice(rest, n, replace=False)).tolist()) for _ in range(n_controls)] if len(rest) >= n else []


def _positions(chosen: NDArray[np.bool_]) -> _Keys:
    return tuple(np.flatnonzero(chosen).tolist())


def _effect(
    vlm: VLM,
    encoding: Encoding,
    target: Target,
    to: str,
    blocks: Mapping[str, Sequence[_Keys]],
    windows: Sequence[range],
    n_controls: int,
    batch_size: int,
) -> _Effect:
    length, steps = len(encoding), len(target.reference_ids)
    queries = encoding.question_tokens.tolist()
    if to != "question":
        text = np.flatnonzero(encoding.segment != SEGMENTS.index("image")) if to == "text" else np.array([length - 1])
        queries = [*text.tolist(), *range(length, length + steps - 1)]
    # text before the first hidden token never saw it; as queries, the words before a picture would have every run carry the picture
    hidden = [key for sets in blocks.values() for keys in sets for key in keys]
    queries = [query for query in queries if query > min(hidden, default=length)]
    edges = Edges(vlm, forced(vlm, encoding, target.fed), queries, steps)
    # windows that are cut off at both ends are the same run
    cuts = list(dict.fromkeys(Cut(layers, keys) for sets in blocks.values() for keys in sets for layers in windows))
    found = np.zeros((len(cuts), len(_EFFECTS)))
    for which, logits, uncut in edges.run(cuts, batch_size):
        score, difference, said = target.read(logits)
        score0, difference0, said0 = target.read(uncut)
        changes = (score - score0, difference - difference0, (said != said0).any(-1))
        found[which] = np.stack([each.double().cpu().numpy() for each in changes], axis=-1)
    if target.position < 0:
        found[:, 1] = np.nan
    place = {cut: index for index, cut in enumerate(cuts)}
    values = np.full((len(_EFFECTS), len(blocks), len(windows)), np.nan)
    draws = np.full((len(_EFFECTS), n_controls, len(windows)), np.nan)
    for index, (name, sets) in enumerate(blocks.items()):
        if sets:
            each = found[[[place[Cut(layers, keys)] for layers in windows] for keys in sets]]  # (set, layer, effect)
            values[:, index] = each.mean(axis=0).T
            if name == "control":
                draws[:] = each.transpose(2, 0, 1)
    score, difference, _ = target.read(edges.logits)
    n_blocked = np.array([len(sets[0]) if sets else np.nan for sets in blocks.values()], dtype=np.float64)
    return _Effect(values, draws, n_blocked, (float(score), float(difference)))


def _labelled(known: xr.Dataset, effects: Sequence[_Effect], blocks: Sequence[str], vlm: VLM) -> xr.Dataset:
    values = np.stack([effect.values for effect in effects], axis=1)
    variables: dict[str, Any] = {}
    for name, table in zip(_EFFECTS, values, strict=True):
        variables[name] = (("sample", "block", "layer"), table, dict(zip(("long_name", "units"), _EFFECTS[name], strict=True)))
    if "control" in blocks:
        draws = np.stack([effect.draws for effect in effects], axis=1)
        for name, table in list(zip(_EFFECTS, draws, strict=True))[:2]:
            long_name, units = _EFFECTS[name]
            described = {"long_name": f"{long_name}, each control", "units": units}
            variables[f"control_{name}"] = (("sample", "draw", "layer"), table, described)
    clean = np.array([effect.clean for effect in effects])
    n_blocked = np.stack([effect.n_blocked for effect in effects])
    variables |= {
        "n_blocked": (("sample", "block"), n_blocked, {"long_name": "tokens hidden", "units": "token"}),
        "reference_logprob": ("sample", clean[:, 0], {"long_name": "log-probability of the reference and the end token", "units": "nat"}),
        "logit_diff": ("sample", clean[:, 1], {"long_name": "the reference's logit less the foil's", "units": "1"}),
    }
    return known.assign(variables).assign_coords(
        layer=("layer", np.arange(vlm.n_layers), {"long_name": "centre of the window of layers"}),
        layer_kind=("layer", np.array(vlm.layer_kinds, dtype=TEXT), {"long_name": "reach of the layer's attention"}),
        block=("block", np.array(blocks, dtype=TEXT), {"long_name": "tokens hidden"}),
    )
