"""`head_sweep`: what every single head does for the answer, by replacing its output in turn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from interp.benchmarks.sample import Sample
from interp.capture.facts import TEXT, Facts, identify
from interp.capture.labels import description
from interp.capture.progress import track
from interp.decoding import Run, fork
from interp.encoding import Encoding
from interp.errors import BenchmarkError, CaptureError, InterpError
from interp.interventions.branches import branching
from interp.interventions.recording import Recorder
from interp.interventions.references import HeadReference, Mode, Positions, check_ablation
from interp.interventions.staircase import Values, restarts, staircase
from interp.interventions.targets import Target, targets_after, with_targets
from interp.vlm import VLM

_MOST_LOGITS = 1 << 25  # numbers in one chunk of logits: 128 MB in float32
_DIMS = ("sample", "layer", "head")
_TOLERANCE = {torch.float16: 0.2, torch.bfloat16: 0.2}  # share of the largest logit; rounding grows from layer to layer


@dataclass(frozen=True, eq=False)
class _Effect:
    """One sample's: row 0 without, then (layer * head) with a replacement."""

    logprob: NDArray[np.float64]
    difference: NDArray[np.float64]
    said: NDArray[np.int64]  # (row, step)


@dataclass(frozen=True, eq=False)
class _Replacement:
    """What heads give instead, on every sample."""

    mode: Mode
    positions: Positions
    reference: HeadReference | None
    vlm: VLM

    def of(self, sample: Sample, n_prompt: int, n_answer: int) -> Values:
        """Of one sample: layer -> (head, position or 1, feature)."""
        vlm, reference = self.vlm, self.reference
        if self.mode == "zero" or reference is None:
            zeros = torch.zeros(vlm.n_heads, 1, vlm.layers[0].self_attn.head_dim, dtype=vlm.dtype, device=vlm.device)
            return lambda _: zeros
        donor = reference.donor(sample.id, sample.image_id) if self.mode == "resample" else None
        asked: dict[str, Any] = {"mode": self.mode, "positions": self.positions, "donor": donor}
        asked |= {"n_positions": n_prompt + n_answer, "n_answer": n_answer}
        return lambda layer: reference.value(layer, slice(None), **asked).to(vlm.device)


def head_sweep(
    vlm: VLM,
    bench: Sequence[Sample],
    *,
    mode: Mode = "zero",
    positions: Positions = "last",
    reference: HeadReference | None = None,
    prompt: str = "base",
    max_new_tokens: int = 16,
    chunk: int | None = None,
    progress: bool | None = None,
) -> xr.Dataset:
    """Replace every single head's output, one at a time, and see how the answer suffers.

    The result is that of one full forward pass per head, but costs about one more forward pass in all for ``last`` and ``generated``:
    heads branch off one run and share its prefix. Samples go one by one, so there is no padding.

    Parameters
    ----------
    vlm
        The model.
    bench
        A benchmark, or any sequence of samples.
    mode
        What a head gives instead: ``zero``, its ``mean`` over `reference`, or that of another sample (``resample``): a donor from
        `reference` about another picture, drawn from the sample's id.
    positions
        Where: at the ``last`` prompt token (answer tokens are then not altered themselves, but see the altered ones), there and at the
        answer tokens (``generated``), or at ``all`` positions. The last costs half a forward pass per head.
    reference
        From `head_reference`; not used by ``zero``.
    prompt
        A wording of `interp.prompts.PROMPTS`, or a text that holds ``{question}``.
    max_new_tokens
        Longest answer, in tokens.
    chunk
        Branches that run at once, in layers and in the output layer. By default as many as fit into some hundred MB.
    progress
        Force a progress bar on or off; by default it shows in terminals and notebooks.

    Returns
    -------
    xr.Dataset
        (sample, layer, head): `delta_logprob`, nats, change of the teacher-forced log-probability of the reference and the end token
        (of several references the one that is best without ablation); `delta_logit_diff`, change of the reference's logit less the
        foil's at the first token where they differ (the foil is the model's own wrong answer, or for right answers the runner-up at
        the first token; NaN and counted as `n_undefined` where there is none); `flip`, whether the most probable token changes at any
        teacher-forced position. Per sample, without ablation: `reference_logprob`, `logit_diff`, and the targets as in
        `interp.interventions.targets`. Coordinates and provenance as in a trace.

    Raises
    ------
    BenchmarkError
        The benchmark has no sample, or two samples share an id.
    InterpError
        An argument is not understood, or the reference is missing, of another model, or does not hold what is asked for.
    AlignmentError
        A prompt, its tokens and its picture do not line up.
    CaptureError
        The unaltered branch does not give the model's own logits.
    """
    vlm.refuse_edits("head_sweep")
    _check(vlm, mode, positions, reference, max_new_tokens, chunk)
    if not len(bench):
        raise BenchmarkError("The benchmark has no samples; check its split and its limit.")
    identify(bench)
    facts, targets, effects = list[Facts](), list[Target](), list[_Effect]()
    replace = _Replacement(mode, positions, reference, vlm)
    with branching(vlm.hf_model):
        for sample in track(bench, len(bench), "sweeping heads", progress):
            encoding = vlm.encode(sample, prompt)
            target, effect = _swept(vlm, sample, encoding, replace, max_new_tokens, chunk)
            facts.append(Facts.of(sample, encoding))
            targets.append(target)
            effects.append(effect)
    settings = {
        "intervention": "head_sweep",
        "mode": mode,
        "positions": positions,
        "reference": reference.name if reference is not None and mode != "zero" else "",
        "reference_set": json.dumps(dict(reference.identity) if reference is not None and mode != "zero" else {}),
        "prompt": prompt,
        "max_new_tokens": max_new_tokens,
        "attention_implementation": "sdpa, branches in float32",
    }
    return _labelled(with_targets(facts, targets, vlm, settings), effects, vlm)


def _check(vlm: VLM, mode: str, positions: str, reference: HeadReference | None, max_new_tokens: int, chunk: int | None) -> None:
    check_ablation(mode, positions)
    if max_new_tokens < 1 or (chunk is not None and chunk < 1):
        raise InterpError(f"max_new_tokens ({max_new_tokens}) and chunk ({chunk}) must be 1 or more.")
    if mode == "zero":
        return
    if reference is None:
        raise InterpError(
            f"Ablation mode {mode!r} needs a reference set; pass reference=interp.interventions.head_reference(vlm, samples, ...)."
        )
    reference.check(vlm)


def _swept(
    vlm: VLM, sample: Sample, encoding: Encoding, replace: _Replacement, max_new_tokens: int, chunk: int | None
) -> tuple[Target, _Effect]:
    """One sample: a recorded prompt, its targets, the reference's tokens recorded after it, and all branches."""
    recorder = Recorder(vlm.layers, whole=replace.positions == "all")
    run = Run.start(vlm.hf_model, vlm.batch([encoding]))
    outputs = recorder.run(vlm.hf_model, **run.prefill_inputs(), logits_to_keep=1)
    first = outputs.logits[0, -1]
    forced, kept = fork(run, outputs)  # the answer uses up the other
    target = targets_after(vlm, [sample], [encoding], run, outputs, max_new_tokens)[0]
    if target.fed:
        recorder.run(vlm.hf_model, **forced.advance(kept, torch.as_tensor([target.fed], device=vlm.device)))
    del outputs, kept
    steps = 1 + len(target.fed)
    layers = recorder.layers()
    values = replace.of(sample, len(encoding), len(target.fed))
    if replace.positions == "all":
        rows = restarts(vlm.layers, layers, values, steps, chunk)
    else:
        rows = staircase(vlm.layers, layers, values, steps if replace.positions == "generated" else 1, chunk)
    return target, _read(vlm, rows, target, first, chunk)


@torch.no_grad()
def _read(vlm: VLM, rows: torch.Tensor, target: Target, first: torch.Tensor, chunk: int | None) -> _Effect:
    """What the rows (row, step, feature) that leave the decoder say; `first` are the model's own logits at the last prompt token."""
    model = vlm.hf_model
    size = chunk or max(_MOST_LOGITS // (rows.shape[1] * len(first)), 1)
    found = []
    for start in range(0, len(rows), size):
        logits = model.lm_head(model.model.language_model.norm(rows[start : start + size]))
        if start == 0:
            _check_unaltered(vlm, logits[0, 0], first)
        found.append(target.read(logits))
    return _Effect(*(torch.cat(part).cpu().numpy() for part in zip(*found, strict=True)))


def _check_unaltered(vlm: VLM, got: torch.Tensor, own: torch.Tensor) -> None:
    gap = float((got - own).abs().max() / own.abs().max())
    if not gap <= _TOLERANCE.get(vlm.dtype, 1e-3):
        raise CaptureError(
            f"The unaltered branch of {vlm.name!r} gives other logits than the model itself (off by {gap:.2g} of the largest): the model "
            "does something between its layers and its logits that the sweep does not know; use ablate_heads head by head."
        )


def _labelled(known: xr.Dataset, effects: Sequence[_Effect], vlm: VLM) -> xr.Dataset:
    shape = (vlm.n_layers, vlm.n_heads)
    clean = {name: np.array([getattr(effect, name)[0] for effect in effects]) for name in ("logprob", "difference")}
    logprob = np.stack([(effect.logprob[1:] - effect.logprob[0]).reshape(shape) for effect in effects])
    difference = np.stack([(effect.difference[1:] - effect.difference[0]).reshape(shape) for effect in effects])
    flip = np.stack([(effect.said[1:] != effect.said[0]).any(-1).reshape(shape) for effect in effects])
    undefined = int(np.isnan(clean["difference"]).sum())
    variables = {
        "delta_logprob": (_DIMS, logprob, {"long_name": "change of the reference's log-probability", "units": "nat"}),
        "delta_logit_diff": (
            _DIMS,
            difference,
            {"long_name": "change of the reference's logit less the foil's", "units": "1", "n_undefined": undefined},
        ),
        "flip": (_DIMS, flip, {"long_name": "the most probable token changes at a step of the reference"}),
        "reference_logprob": (
            "sample",
            clean["logprob"],
            {"long_name": "log-probability of the reference and the end token", "units": "nat"},
        ),
        "logit_diff": ("sample", clean["difference"], {"long_name": "the reference's logit less the foil's", "units": "1"}),
    }
    layer_kind = np.array(vlm.layer_kinds, dtype=TEXT)
    coords = {
        "layer": np.arange(vlm.n_layers),
        "head": np.arange(vlm.n_heads),
        "layer_kind": ("layer", layer_kind, description("layer_kind")),
    }
    return known.assign(variables).assign_coords(coords)
