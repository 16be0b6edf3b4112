"""`interp.evaluate`: ways of answering side by side, on the same questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp.analysis import Profile
from interp.benchmarks.sample import Sample
from interp.capture.answering import answer_text
from interp.capture.attention import serving_rows
from interp.capture.facts import Facts, identify
from interp.capture.labels import kept, provenance_of_model
from interp.capture.pictures import Pictures
from interp.capture.progress import track
from interp.capture.store import Plan, Store
from interp.errors import BenchmarkError, InterpError
from interp.interventions.evidence import check_smoothing
from interp.interventions.highlight import check_alpha
from interp.interventions.variants import find_variant
from interp.methods.attribution import Attribution
from interp.methods.batch import Batch, Options
from interp.methods.method import Method
from interp.methods.registry import find
from interp.methods.stored import open_answers
from interp.methods.table import IDS, PACKED, check_records, checked, labelled, packed, planned, posed, slim
from interp.methods.trained import not_applicable
from interp.vlm import VLM


def evaluate(
    vlm: VLM,
    bench: Sequence[Sample],
    methods: Sequence[str | Method] = ("base", "inst", "vea"),
    profile: Profile | None = None,
    *,
    attribution: xr.Dataset | None = None,
    alpha: float = 0.5,
    sigma: float = 0.5,
    lam: float = 10.0,
    variant: str = "interp",
    batch_size: int = 8,
    store: str | Path | None = None,
    max_new_tokens: int = 16,
    seed: int = 0,
    allow_overlap: bool = False,
    progress: bool | None = None,
    settings: Mapping[str, Any] | None = None,
    resume_command: str | None = None,
) -> xr.Dataset:
    """Answer every question of a benchmark in several ways.

    Parameters
    ----------
    vlm
        The model.
    bench
        A benchmark, or any sequence of samples.
    methods
        Names (`interp.methods.names` lists them), or `interp.methods.Method` objects of your own.
    profile
        The visual-grounding layers, fitted on other pictures; methods that highlight by attention need it. The attention is that of
        this model under the base prompt, or of `attribution`.
    attribution
        A trace of another model, which then says where to look (see Notes); `profile` must be that model's, in the trace's prompt order.
        It must hold every sample of `bench` (by id, with the same question and pictures), in any order. A stored one
        (`interp.open_trace`) is read batch by batch.
    alpha
        How bright a highlight leaves the rest, 0 to 1 (paper, Eq. 4). At 1, `vea` shows the original picture, and answers as `inst`.
    sigma, lam
        Width of the smoothing in shorter sides of the picture, and the factor of a spike (Eqs. 3 and 2).
    variant
        ``"interp"``, or ``"authors"`` for the authors' formulas as they are.
    batch_size
        Samples per forward pass, left-padded.
    store
        A folder to write to as the run goes. The same call again resumes it; a finished one is opened at once. Other settings are
        refused, and so are other pictures, as far as `interp.trace` compares them.
    max_new_tokens
        Longest answer, in tokens.
    seed
        Draws the shifts of `vea-shifted`.
    allow_overlap
        Accept pictures that the profile was fitted on; recorded.
    progress
        Force a progress bar on or off; by default it shows in terminals and notebooks.
    settings
        Further attributes to keep, JSON-able, as attribute `settings`.
    resume_command
        What to tell whoever opens the store unfinished; by default this call.

    Returns
    -------
    xr.Dataset
        (method, sample): `prediction`; the scores of `interp.answers`; `reference_logprob`, `reference_logprob_mean` and `entropy` in
        nats; `mean_gain`, over a sample's pixels; and the cost, each method charged with what it shares with others: `seconds` per
        sample, and `passes`, forward-pass equivalents: tokens that went through the decoder, prompts and answers, in lengths of the
        sample's base prompt (a backward pass counts twice; scoring the references does not count). What a method does not give is NaN.
        A method in whose form the model was not trained, by its own card, has an empty prediction, no scores, and the reason in the
        attribute `not_applicable` (JSON, by method). With a
        profile, `profiled_auroc` (sample). With `vea-shifted`, `shift_role` (sample): where the shifted map's peak fell. Coordinates
        and provenance as in a trace. Choose a method by ``answers.sel({"method": "vea"})``: xarray takes ``sel(method=...)`` for its
        own argument of that name, and chooses nothing.

    Raises
    ------
    InterpError
        A method is unknown, lacks its profile, or records or replies what cannot be kept; the profile cannot judge these pictures; the
        attribution is not of the profile's model, or not of these samples; or a parameter is out of its range.
    BenchmarkError
        The benchmark has no sample, or two of one id.
    StoreError
        The store was begun with other settings or pictures, holds something else, or is damaged.

    Notes
    -----
    With `attribution`, maps, `profiled_auroc` and every control follow the other model's attention and tokens; all answers are this
    model's, and `seconds` are its own. A map lies on the original picture, so what is shown is the original picture, highlighted:
    `vea` differs from `inst` by the highlight alone. (The authors' code shows the attributing model's rendering instead, so that
    resolution, crop and proportions change together with the highlight.) The attributes `attribution_*` say whose map it is, and are part
    of a store's identity. An interrupted run is best resumed with a stored trace: one that is made again may differ in its last digits,
    and is then refused.

    Attention in memory is float32; a store keeps float16 by default, each number to 11 bits and those under 6e-5 to 3e-8, which moves a
    map by less than 0.001 as a rule, so that some pixels differ by one level. ``store_dtype="float32"`` avoids it.

    Examples
    --------
    >>> answers = interp.evaluate(vlm, bench, ["base", "inst", "vea"], profile)  # doctest: +SKIP
    >>> answers["exact_match"].mean("sample").to_series()  # doctest: +SKIP
    >>> seen_by = interp.trace(other, bench, answers=False, store="other.zarr")  # doctest: +SKIP
    >>> answers = interp.evaluate(vlm, bench, profile=profile_of_other, attribution=seen_by)  # doctest: +SKIP
    """
    chosen = find(methods)
    options = Options(float(alpha), float(sigma), float(lam), variant, int(seed), int(max_new_tokens))
    _check(options, batch_size, chosen, profile)
    if len(bench) == 0:
        raise BenchmarkError("The benchmark has no samples; check its split and its limit.")
    extra = kept(settings)
    other = None if attribution is None else Attribution(attribution)
    run = _Run(vlm, bench, chosen, profile, other, options, batch_size, progress)
    model = provenance_of_model(vlm)
    if profile is not None:  # before the samples are read, which may take long
        profile.check(model, ()) if other is None else other.check_profile(profile)
    there = store is not None and Path(store).exists()
    facts = [] if there else run.survey()
    pictures: set[str] = set()
    most = [0]
    source = identify(_noting(facts or bench, pictures, most, other))
    run.absent = not_applicable(vlm, chosen, most[0])
    if profile is not None:
        profile.check(model if other is None else other.attrs, pictures, allow_overlap=allow_overlap)
    asked = {
        "methods": [method.name for method in chosen],
        "method_summaries": {method.name: method.summary for method in chosen},
        **asdict(options),
        "batch_size": batch_size,
        "profile_layers": list(profile.layers) if profile else [],
        "profile_split": profile.identity.get("split", "") if profile else "",
        "allow_overlap": allow_overlap,
        "profile_overlap": len(pictures & set(profile.image_ids)) if profile else 0,
        **(other.identity([bench[index].id for index in sorted({0, len(bench) // 2, len(bench) - 1})]) if other else {}),
    }
    described = {"attribution_prompt": "base", **asked, **({"not_applicable": run.absent} if run.absent else {})}

    def known() -> xr.Dataset:
        return posed(facts or run.survey(), vlm, chosen, described).assign_attrs(extra)

    if store is None:
        return run.labelled(known(), run.in_memory())
    identity = {**model, **source, **asked}
    resume = resume_command or f"interp.evaluate(..., store={str(store)!r}) with the same model, benchmark and settings"
    begun = Store.resume_or_plan(store, "answers", identity, lambda: Plan({"answers": known()}, run.arrays), resume)
    planned_pictures = Pictures(begun)
    if there:
        planned_pictures.check_some(bench)
    if not begun.sealed:
        for index, values in run.answers(begun.todo(), planned_pictures):
            begun.write(index, values)
        begun.seal(run.derive)
    return open_answers(store)


class _Run:
    """One call's samples and methods, batch by batch."""

    def __init__(
        self,
        vlm: VLM,
        bench: Sequence[Sample],
        methods: Sequence[Method],
        profile: Profile | None,
        attribution: Attribution | None,
        options: Options,
        batch_size: int,
        progress: bool | None,
    ) -> None:
        self.vlm = vlm
        self.bench = bench
        self.methods = methods
        self.profile = profile
        self.attribution = attribution
        self.options = options
        self.batch_size = batch_size
        self.progress = progress
        self.absent: dict[str, str] = {}
        self.arrays = planned(len(bench), methods, options.max_new_tokens)

    def survey(self) -> list[Facts]:
        """What is known before: a sample that cannot be asked stops the run here, not after an hour."""
        found = []
        for index in track(range(len(self.bench)), len(self.bench), "encoding", self.progress):
            sample = self.bench[index]
            found.append(slim(Facts.of(sample, self.vlm.encode(sample))))
            if self.attribution is not None:
                self.attribution.check(sample, found[-1].sha256)
        return found

    def answers(self, todo: Iterable[int], pictures: Pictures | None = None) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Place and values of every sample to do. Batches are fixed by position and run whole, so that a resumed run is the same."""
        missing = {int(index) for index in todo}
        n = len(self.bench)
        batches = [range(start, min(start + self.batch_size, n)) for start in range(0, n, self.batch_size)]
        open_ones = [batch for batch in batches if not missing.isdisjoint(batch)]
        rows = any(method.needs_spoken for method in self.methods if method.name not in self.absent)
        with serving_rows(self.vlm.hf_model):
            for places in track(open_ones, len(open_ones), "answering", self.progress):
                batch = Batch(self.vlm, [self.bench[index] for index in places], self.options, self.profile, self.attribution, rows)
                if pictures is not None:
                    for index, sample, found in zip(places, batch.samples, batch.sha256, strict=True):
                        pictures.check(index, sample.id, found)
                        if self.attribution is not None:
                            self.attribution.check(sample, found)
                for index, values in zip(places, self._batch(batch), strict=True):
                    if index in missing:
                        yield index, values

    def in_memory(self) -> dict[str, NDArray[Any]]:
        """The planned arrays, filled."""
        arrays = {name: np.full(array.shape, array.fill, array.dtype) for name, array in self.arrays.items()}
        for index, values in self.answers(range(len(self.bench))):
            for name, value in values.items():
                arrays[name][index] = value
        return arrays

    def derive(self, tree: xr.DataTree) -> dict[str, xr.Dataset]:
        """What follows from a filled store."""
        written = {name: np.asarray(tree[name]) for name in (IDS, PACKED)}
        return {"answers": self.labelled(tree["answers"].to_dataset().load(), written)}

    def labelled(self, known: xr.Dataset, written: Mapping[str, NDArray[Any]]) -> xr.Dataset:
        """The answers, from what was known before and what was written."""
        return labelled(known, written, self.methods, lambda ids: answer_text(self.vlm, ids), self.absent)

    def _batch(self, batch: Batch) -> list[dict[str, NDArray[Any]]]:
        replies = {}
        for method in self.methods:
            if method.name in self.absent:
                continue
            given, seconds, passes = batch.charged(method.answer)
            names = [sample.id for sample in batch.samples]
            costs = [{"seconds": seconds / len(names), "passes": float(one)} for one in passes]
            checked(given, method, names, self.options.max_new_tokens)
            # copies, as one reply may stand for two methods
            replies[method.name] = [replace(reply, numbers={**reply.numbers, **cost}) for reply, cost in zip(given, costs, strict=True)]
        quality = batch.profiled_auroc if self.profile is not None else np.full(len(batch.samples), np.nan)
        return [
            packed({name: several[k] for name, several in replies.items()}, float(quality[k]), self.methods, self.options.max_new_tokens)
            for k in range(len(batch.samples))
        ]


def _noting(
    asked: Iterable[Facts | Sample], pictures: set[str], most: list[int], attribution: Attribution | None
) -> Iterator[Facts | Sample]:
    for one in asked:
        pictures.add(one.image_id)
        most[0] = max(most[0], len(one.image_uris))
        if attribution is not None:
            attribution.check(one)
        yield one


def _check(options: Options, batch_size: int, methods: Sequence[Method], profile: Profile | None) -> None:
    if batch_size < 1 or options.max_new_tokens < 1:
        raise InterpError(f"batch_size ({batch_size}) and max_new_tokens ({options.max_new_tokens}) must be 1 or more.")
    check_alpha(options.alpha)
    check_smoothing(options.sigma, options.lam)
    find_variant(options.variant)
    check_records(methods)
    needy = [method.name for method in methods if method.needs_map]
    if needy and profile is None:
        raise InterpError(
            f"Method {needy[0]!r} needs a layer profile; pass profile=interp.profile_layers(ds) of a trace on other pictures, or leave "
            "the method out."
        )
