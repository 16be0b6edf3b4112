"""A batch of questions as a method finds it: what the plain prompt's attention says, and a model to ask about any picture, in any wording.

The attention is the model's own, or that of another model's trace, which nothing behind the maps can tell: a map lies on the original
picture. What several methods need (the plain prompt's prefill, the maps) is computed once, when first asked for.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from interp.analysis import Profile, evidence_labels, profiled_map
from interp.analysis.auroc import auroc_kernel
from interp.benchmarks.sample import Sample
from interp.capture.answering import Answered, answered, entropy
from interp.capture.facts import Facts
from interp.capture.forward import Prefill, prefill
from interp.capture.pictures import digests
from interp.capture.record import captured_rows
from interp.decoding import Run, fork
from interp.encoding import Encoding
from interp.errors import InterpError
from interp.interventions import evidence_map, gain, highlight
from interp.methods.attribution import Attribution
from interp.methods.shared import Shared
from interp.vlm import VLM

T = TypeVar("T")
Maps = Sequence[Sequence[xr.DataArray]]  # per sample, per picture


@dataclass(frozen=True)
class Options:
    """How maps are made and shown (see `evidence_map` and `highlight`), what controls draw from, and the longest answer in tokens."""

    alpha: float = 0.5
    sigma: float = 0.5
    lam: float = 10.0
    variant: str = "interp"
    seed: int = 0
    max_new_tokens: int = 16


@dataclass(eq=False)
class Reply:
    """An answer: the generated ids, the end token included, and numbers by name. Numbers that are left out are NaN in the result."""

    ids: NDArray[np.int64]
    numbers: dict[str, float] = field(default_factory=dict)


_Spoken = tuple[Reply, list[NDArray[np.float32]]]  # a reply, and the attention rows of its tokens if they were asked for


class Batch:
    """Questions that are asked together.

    Parameters
    ----------
    vlm
        The model, whose decoder serves attention rows (`interp.capture.attention.serving_rows`).
    samples
        The questions.
    options
        The evaluation's.
    profile
        The layers whose attention makes a map, if there is one.
    attribution
        Where attention comes from if it is not the model's own. `attention`, `seen` and `tokens`, and with them `maps`, `maps_of` and
        `profiled_auroc`, are then of the attributing model's tokens; everything else is of the model that answers.
    keep_rows
        Whether some method will ask for the attention rows of the base answer (`spoken`): they then come from the answer that `base`
        gives, and not from another one like it.

    Attributes
    ----------
    shared
        Work that several methods share, by name; what is done inside `Shared.once` is charged to each of them.
    """

    def __init__(
        self,
        vlm: VLM,
        samples: Sequence[Sample],
        options: Options,
        profile: Profile | None = None,
        attribution: Attribution | None = None,
        keep_rows: bool = False,
    ) -> None:
        self.vlm = vlm
        self.samples = samples
        self.options = options
        self.profile = profile
        self.attribution = attribution
        self.keep_rows = keep_rows
        self._processed = np.zeros(len(samples))
        self._places = {sample.id: place for place, sample in enumerate(samples)}
        self.shared = Shared(lambda: np.concatenate([[time.perf_counter()], self._processed]))

    @property
    def facts(self) -> Sequence[Facts]:
        """Per sample, where the tokens of this model's base prompt come from."""
        return self.shared.once("facts", lambda: [Facts.of(s, e, sha256=()) for s, e in zip(self.samples, self._encodings, strict=True)])

    @property
    def attention(self) -> Sequence[NDArray[np.floating]]:
        """Per sample, (layer, head, token): the last prompt token's attention under the base prompt, which every map comes from."""
        if self.attribution is not None:
            return [one["attention"].values for one in self._attributed]
        return self.shared.once("attention", lambda: self.own_attention)

    @property
    def own_attention(self) -> Sequence[NDArray[np.floating]]:
        """As `attention`, of the model that answers, whoever attributes."""
        return self._first[1]

    @property
    def base(self) -> Sequence[Reply]:
        """The replies to the base prompt, from the prefill that also serves `branch`, and the maps where those are this model's own."""
        made = self.shared.once("base", lambda: self._plain(self.keep_rows))
        return [replace(reply, numbers=dict(reply.numbers)) for reply, _ in made]  # a method may add numbers of its own

    @property
    def spoken(self) -> Sequence[list[NDArray[np.float32]]]:
        """Per sample, the attention rows (layer, head, key) of what was answered to the base prompt, one per token but for the end token's.
        Keys are the prompt's tokens and the answer's up to the row's own.
        """
        return self.shared.once("rows", self._spoken)

    @property
    def sha256(self) -> Sequence[tuple[str, ...]]:
        """Per sample, the digest of each original picture."""
        return [digests(encoding.images) for encoding in self._encodings]

    @property
    def maps(self) -> Maps:
        """Per sample and picture, the map of the profiled attention.

        Raises
        ------
        InterpError
            There is no profile.
        """
        return self.shared.once("maps", lambda: [self._paint(self.seen(k), self._known_profile) for k in range(len(self.samples))])

    @property
    def profiled_auroc(self) -> NDArray[np.float64]:
        """(sample,) How well the profiled attention ranks the evidence; NaN where there is none to rank."""
        seen = [self.seen(k) for k in range(len(self.samples))]
        profile, maps = self._known_profile, self.profiled
        labels = [evidence_labels(one["coverage"], profile.rule).values for one in seen]
        return np.asarray([auroc_kernel(map_, marks) for map_, marks in zip(maps, labels, strict=True)])

    @property
    def profiled(self) -> Sequence[NDArray[np.floating]]:
        """Per sample, (token,): the profiled attention (paper, Eq. 1), before it is made a map.

        Raises
        ------
        InterpError
            There is no profile.
        """
        return [profiled_map(self.seen(k), self._known_profile).values for k in range(len(self.samples))]

    def seen(self, index: int) -> xr.Dataset:
        """Sample `index` with its attention, as much of a trace's sample as a map needs."""
        if self.attribution is not None:
            return self._attributed[index]
        attention = (("layer", "head", "token"), self.attention[index])
        return self.tokens(index).assign(attention=attention).assign_coords(layer=np.arange(self.vlm.n_layers))

    def tokens(self, index: int) -> xr.Dataset:
        """Where the tokens that a map is made of are in sample `index`, and how much of each is evidence; no forward pass."""
        if self.attribution is not None:
            return self._attributed[index].drop_dims(["layer", "head"])
        return self.own_tokens(index)

    def own_tokens(self, index: int) -> xr.Dataset:
        """As `tokens`, of the base prompt of the model that answers, whoever attributes."""
        facts = self.facts[index]
        per_token = {name: ("token", getattr(facts, name)) for name in ("view", "row", "col", "image_index")}
        return xr.Dataset(
            {"coverage": ("token", facts.coverage), "image_size": (("image", "axis"), np.asarray(facts.image_sizes))},
            coords={"token_box": (("token", "corner"), facts.token_boxes), **per_token},
        )

    def maps_of(self, values: Sequence[ArrayLike], *, denoise: bool = False, smooth: bool = True) -> Maps:
        """Maps of your own: per sample (token,) values. By default they are smoothed like `maps`, but no spike is replaced."""
        chosen = [xr.DataArray(np.asarray(one, dtype=np.float64), dims="token") for one in values]
        return [self._paint(self.tokens(k), one, denoise, smooth) for k, one in enumerate(chosen)]

    def ask(
        self,
        prompt: str | Sequence[str],
        samples: Sequence[Sample] | None = None,
        max_new_tokens: int | None = None,
        *,
        call: Callable[[Run, dict[str, Any]], Any] | None = None,
    ) -> Sequence[Reply]:
        """Ask the model.

        Parameters
        ----------
        prompt
            A wording for all samples, or one for each; see `VLM.encode`.
        samples
            What to ask instead of the batch's own samples (the same questions about other pictures, say).
        max_new_tokens
            By default the evaluation's.
        call
            Runs each forward pass in the model's stead, see `interp.decoding.Run.start`.
        """
        asked = self.samples if samples is None else samples
        wordings = [prompt] * len(asked) if isinstance(prompt, str) else prompt
        encodings = [self.vlm.encode(sample, wording) for sample, wording in zip(asked, wordings, strict=True)]
        first = self.begin(encodings, call)
        return [reply for reply, _ in self._reply(asked, encodings, first, max_new_tokens or self.options.max_new_tokens)]

    def branch(self) -> Prefill:
        """The prefill of the base prompt, to go on from. It is computed once, also for `base`, and each call gives a branch of its own."""
        # another model's attribution needs no rows of this one
        first = self._first[0] if self.attribution is None else self.shared.once("unread", self._begun)
        run, outputs = fork(first.run, first.outputs)
        return Prefill(run, outputs, [])

    def begin(self, encodings: Sequence[Encoding], call: Callable[[Run, dict[str, Any]], Any] | None = None) -> Prefill:
        """The prefill of some prompts, without attention rows."""
        with torch.no_grad():
            run = self.vlm.start(encodings)
            run.call = call or run.call
            outputs = run.forward(run.prefill_inputs(), logits_to_keep=1)
        self.processed({encoding.sample_id: len(encoding) for encoding in encodings})
        return Prefill(run, outputs, [])

    def processed(self, tokens: Mapping[str, float]) -> None:
        """Count tokens that went through the decoder, by sample id; a backward pass through it counts as two forward passes."""
        for name, number in tokens.items():
            if name in self._places:
                self._processed[self._places[name]] += number

    def show(self, maps: Maps, prompt: str = "vea", *, beside: bool = False) -> Sequence[Reply]:
        """Ask about the original pictures highlighted by `maps`.

        Parameters
        ----------
        maps
            Per sample and picture.
        prompt
            As in `ask`.
        beside
            Show the highlighted pictures after the original ones, not in their place.

        Returns
        -------
        The replies, which record `mean_gain`, over all highlighted pixels of a sample.
        """
        shown, means = [], []
        alpha, variant = self.options.alpha, self.options.variant
        for sample, own in zip(self.samples, maps, strict=True):
            originals = sample.open_images()
            lit = [highlight(picture, one, alpha, variant) for picture, one in zip(originals, own, strict=True)]
            shown.append(replace(sample, images=(*originals, *lit) if beside else tuple(lit)))
            means.append(float(np.concatenate([gain(one, alpha).ravel() for one in own]).mean()))
        replies = self.ask(prompt, shown)
        for reply, mean in zip(replies, means, strict=True):
            reply.numbers["mean_gain"] = mean
        return replies

    def seed(self, index: int, image_index: int = 0) -> int:
        """A seed for one picture of sample `index`, from the evaluation's seed and the sample's id: the batch does not matter."""
        name = f"{self.options.seed}/{self.samples[index].id}/{image_index}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])

    def charged(self, answer: Callable[[Batch], T]) -> tuple[T, float, NDArray[np.float64]]:
        """What `answer` gives, and what it costs by itself: what methods share is charged to each of them.

        Returns
        -------
        tuple
            The result; seconds, of the whole batch; and per sample forward-pass equivalents: tokens that went through the decoder
            (`processed`), in lengths of the sample's base prompt.
        """
        result, cost = self.shared.timed(lambda: answer(self))
        return result, float(cost[0]), cost[1:] / [len(encoding) for encoding in self._encodings]

    @property
    def _known_profile(self) -> Profile:
        if self.profile is None:
            raise InterpError("A map needs a layer profile; pass profile=interp.profile_layers(trace of another split).")
        return self.profile

    @property
    def _encodings(self) -> Sequence[Encoding]:
        return self.shared.once("encodings", lambda: [self.vlm.encode(sample) for sample in self.samples])

    @property
    def _attributed(self) -> Sequence[xr.Dataset]:
        assert self.attribution is not None  # whoever asks has looked
        read = self.attribution.of
        return self.shared.once("attributed", lambda: [read(sample) for sample in self.samples])

    @property
    def _first(self) -> tuple[Prefill, list[NDArray[np.floating]]]:
        return self.shared.once("first", self._prefill)

    def _prefill(self) -> tuple[Prefill, list[NDArray[np.floating]]]:
        first = prefill(self.vlm, self._encodings)
        self.processed({encoding.sample_id: len(encoding) for encoding in self._encodings})
        attention = []
        for k, (sample, encoding) in enumerate(zip(self.samples, self._encodings, strict=True)):
            attention.append(captured_rows(self.vlm, sample.id, encoding, first, k)[:, :, 0])
            encoding.inputs.clear()  # not needed any more
        first.outputs.attentions = None  # copied out above
        return first, attention

    def _plain(self, keep_rows: bool) -> Sequence[_Spoken]:
        return self._reply(self.samples, self._encodings, self.branch(), self.options.max_new_tokens, keep_rows)

    def _begun(self) -> Prefill:
        return self.begin([self.vlm.encode(sample) for sample in self.samples])  # `_encodings` may have lost their inputs

    def _spoken(self) -> Sequence[list[NDArray[np.float32]]]:
        made = self.shared.once("base" if self.keep_rows else "spoken", lambda: self._plain(True))
        self.processed({sample.id: 1 for sample in self.samples})  # the last token, which is fed for its row alone
        return [rows for _, rows in made]

    def _paint(self, one: xr.Dataset, source: Profile | xr.DataArray, denoise: bool = True, smooth: bool = True) -> list[xr.DataArray]:
        o = self.options
        how = {"denoise": denoise, "smooth": smooth and o.sigma > 0, "sigma": o.sigma, "lam": o.lam, "variant": o.variant}
        return [evidence_map(one, source, image_index=index, **how) for index in range(one.sizes["image"])]

    def _reply(
        self, samples: Sequence[Sample], encodings: Sequence[Encoding], first: Prefill, longest: int, keep_rows: bool = False
    ) -> Sequence[_Spoken]:
        said = answered(self.vlm, samples, encodings, first, longest, keep_rows)
        self.processed({e.sample_id: len(one.ids) - 1 for e, one in zip(encodings, said, strict=True)})  # the last one is not fed
        return [(_scored(one, entropy(first, index)), one.rows) for index, one in enumerate(said)]


def _scored(said: Answered, doubt: float) -> Reply:
    return Reply(said.ids, {**said.scores, "entropy": doubt, "mean_gain": 1.0})
