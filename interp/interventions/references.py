"""What heads give on other samples: the means and donors that stand in for a head's own output.

A head's output is its slice of the output projection's input (attention weights times values), before heads are mixed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch

from interp.benchmarks.sample import Sample
from interp.capture.facts import identify
from interp.capture.progress import track
from interp.decoding import Run
from interp.errors import BenchmarkError, InterpError
from interp.interventions.branches import branching
from interp.vlm import VLM

Mode = Literal["zero", "mean", "resample"]
Positions = Literal["last", "generated", "all"]

_MODEL = ("model", "revision", "prompt_order")


@dataclass(frozen=True, eq=False)
class HeadReference:
    """A named set of samples and what every head gives on them.

    Parameters
    ----------
    name
        Recorded in every result that uses it.
    sample_ids, image_ids
        (donor,) the samples, and the pictures they are about.
    last
        (donor, layer, head, feature) at the last prompt token, in the model's floating type.
    mean_last, mean_all
        (layer, head, feature) float32: means over samples at the last prompt token, and over all prompt tokens of all samples.
    everywhere
        Per donor (layer, token, head, feature), or None where these were not stored.
    seed
        Draws the donors.
    identity
        Model, prompt and samples, as attributes for provenance.
    """

    name: str
    sample_ids: tuple[str, ...]
    image_ids: tuple[str, ...]
    last: torch.Tensor = field(repr=False)
    mean_last: torch.Tensor = field(repr=False)
    mean_all: torch.Tensor = field(repr=False)
    everywhere: tuple[torch.Tensor, ...] | None = field(repr=False)
    seed: int
    identity: Mapping[str, str] = field(repr=False)

    def check(self, vlm: VLM) -> None:
        """Refuse another model.

        Raises
        ------
        InterpError
            The set was made by another model, or with the prompt in another order.
        """
        for name, value in _source(vlm).items():
            if self.identity[name] != value:
                raise InterpError(
                    f"Head reference {self.name!r} is of {name.replace('_', ' ')} {self.identity[name]!r}, not {value!r}; make it anew: "
                    "interp.interventions.head_reference(vlm, samples, ...)."
                )

    def donor(self, sample_id: str, image_id: str) -> int:
        """Place of the sample that stands in for `sample_id`: one about another picture, drawn by the seed from the id alone.

        So neither the batch nor the order of samples decides it.

        Raises
        ------
        InterpError
            All of the set is about this picture.
        """
        others = [place for place, image in enumerate(self.image_ids) if image != image_id]
        if not others:
            raise InterpError(
                f"Head reference {self.name!r} holds no picture but that of sample {sample_id!r} ({image_id!r}); "
                "make it from samples about other pictures too."
            )
        digest = hashlib.sha256(f"{self.seed}:{sample_id}".encode()).digest()
        return others[int(np.random.default_rng(int.from_bytes(digest[:8])).integers(len(others)))]

    def value(
        self,
        layer: int,
        heads: Sequence[int] | slice,
        *,
        mode: Mode,
        positions: Positions = "last",
        donor: int | None = None,
        n_positions: int = 1,
        n_answer: int = 0,
    ) -> torch.Tensor:
        """What stands in for heads of a layer.

        Parameters
        ----------
        layer, heads
            Which.
        mode
            ``zero``; ``mean`` over the set; or ``resample``, the donor's own output.
        positions
            ``last`` and ``generated`` give what was stored at the last prompt token. ``all`` gives the mean over all prompt tokens, or
            the donor's outputs aligned at the last prompt token: a longer prompt repeats the donor's first token before it, and answer
            tokens take the donor's last.
        donor
            Place of the donor, for ``resample``; see `donor`.
        n_positions, n_answer
            How many positions a resampled prompt with its answer has (``all``), and how many of them are the answer's.

        Returns
        -------
        (head, position, feature), where one position serves all of them unless all are resampled.

        Raises
        ------
        InterpError
            The set does not hold what is asked for.
        """
        if mode == "zero":
            return torch.zeros_like(self.last[0, layer, heads])[:, None]
        if mode == "mean":
            mean = self.mean_all if positions == "all" else self.mean_last
            return mean[layer, heads].to(self.last.dtype)[:, None]
        if donor is None:
            raise InterpError(
                f"Resampling from head reference {self.name!r} needs a donor; pass donor=reference.donor(sample_id, image_id)."
            )
        if positions != "all":
            return self.last[donor, layer, heads][:, None]
        if self.everywhere is None:
            raise InterpError(
                f"Head reference {self.name!r} holds donors at the last prompt token only; make it with "
                "head_reference(..., positions='all') to resample all positions."
            )
        stored = self.everywhere[donor][layer]
        at = torch.arange(n_positions) - (n_positions - n_answer - len(stored))
        return stored[at.clamp(0, len(stored) - 1)][:, heads].transpose(0, 1)


def head_reference(
    vlm: VLM,
    samples: Sequence[Sample],
    *,
    name: str,
    prompt: str = "base",
    positions: Literal["last", "all"] = "last",
    seed: int = 0,
    progress: bool | None = None,
) -> HeadReference:
    """Run a reference set once and keep what its heads give.

    Parameters
    ----------
    vlm
        The model.
    samples
        At least one; for resampling, about more than one picture.
    name
        What results call the set.
    prompt
        A wording of `interp.prompts.PROMPTS`, or a text that holds ``{question}``.
    positions
        ``all`` also stores every donor at every prompt token: as many numbers as the prompt has tokens, times layers, heads and
        features of a head (some 240 MB for a prompt of 1,200 tokens of a 7B model in half precision).
    seed
        Draws the donors.
    progress
        Force a progress bar on or off; by default it shows in terminals and notebooks.

    Raises
    ------
    BenchmarkError
        There is no sample, or two samples share an id.
    InterpError
        An argument is not understood.
    """
    vlm.refuse_edits("head_reference")
    if positions not in ("last", "all"):
        raise InterpError(f"Reference positions {positions!r} are not understood; use 'last' or 'all'.")
    if not len(samples):
        raise BenchmarkError(f"Head reference {name!r} has no samples; give at least one.")
    source = identify(samples)
    lasts: list[torch.Tensor] = []
    whole: list[torch.Tensor] = []
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    with branching(vlm.hf_model):
        for sample in track(samples, len(samples), "reference heads", progress):
            outputs = head_outputs(vlm, sample, prompt)
            total = total + outputs.sum(1, dtype=torch.float64)
            tokens += outputs.shape[1]
            lasts.append(outputs[:, -1].clone())
            if positions == "all":
                whole.append(outputs)
    last = torch.stack(lasts)
    return HeadReference(
        name=name,
        sample_ids=tuple(sample.id for sample in samples),
        image_ids=tuple(sample.image_id for sample in samples),
        last=last,
        mean_last=last.mean(0, dtype=torch.float64).float(),
        mean_all=(total / tokens).float(),
        everywhere=tuple(whole) if positions == "all" else None,
        seed=seed,
        identity={**_source(vlm), **source, "prompt": prompt, "name": name, "seed": json.dumps(seed)},
    )


def _source(vlm: VLM) -> dict[str, str]:
    return {"model": vlm.name, "revision": vlm.revision, "prompt_order": vlm.prompt_order}


class _Outputs:
    """Observes a forward pass and keeps its heads' outputs."""

    def __init__(self) -> None:
        self.layers: dict[int, torch.Tensor] = {}

    def attention(self, place: int, key: Any, value: Any, output: torch.Tensor, window: int | None) -> None:
        """Called by the attention function."""
        del key, value, window
        self.layers[place] = output[0].cpu()


@torch.no_grad()
def head_outputs(vlm: VLM, sample: Sample, prompt: str = "base") -> torch.Tensor:
    """(layer, token, head, feature) every head's output on a prompt; the text decoder must be inside `branching`."""
    seen = _Outputs()
    run = Run.start(vlm.hf_model, vlm.batch([vlm.encode(sample, prompt)]), use_cache=False)
    vlm.hf_model(**run.prefill_inputs(), logits_to_keep=1, observe=seen)
    return torch.stack([seen.layers[place] for place in range(vlm.n_layers)])


def check_ablation(mode: str, positions: str) -> None:
    """Refuse what is no way of ablation.

    Raises
    ------
    InterpError
        The mode or the positions are unknown.
    """
    for value, known, word in ((mode, get_args(Mode), "Ablation mode"), (positions, get_args(Positions), "Ablation positions")):
        if value not in known:
            raise InterpError(f"{word} {value!r} is unknown; use {', '.join(map(repr, known[:-1]))} or {known[-1]!r}.")
