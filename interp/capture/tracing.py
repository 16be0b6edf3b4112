"""`interp.trace`: a benchmark through a model, into one labelled dataset, in memory or in a store."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from interp.benchmarks.sample import Sample
from interp.capture import filling
from interp.capture.attention import serving_rows
from interp.capture.batch import Queries
from interp.capture.facts import identify
from interp.capture.labels import assemble, kept
from interp.capture.pictures import Pictures
from interp.capture.progress import track
from interp.capture.record import Record
from interp.capture.request import Request
from interp.capture.store import Store, open_trace
from interp.vlm import VLM

_Keep = Callable[[range, list[Record]], None]


def trace(
    vlm: VLM,
    bench: Sequence[Sample],
    *,
    prompt: str = "base",
    batch_size: int = 8,
    answers: bool = True,
    queries: Queries | None = None,
    residual: bool = False,
    store: str | Path | None = None,
    shard: str | None = None,
    progress: bool | None = None,
    max_new_tokens: int = 16,
    self_check: bool = True,
    store_dtype: str = "float16",
    settings: Mapping[str, Any] | None = None,
    resume_command: str | None = None,
) -> xr.Dataset:
    """Ask a model every question of a benchmark, and keep where the last prompt token looked.

    One prefill per batch serves the attention rows, the greedy answer, its entropy and the reference's probability.

    Parameters
    ----------
    vlm
        The model.
    bench
        A benchmark, or any sequence of samples.
    prompt
        A wording of `interp.prompts.PROMPTS`, or a text that holds ``{question}``.
    batch_size
        Samples per forward pass, left-padded.
    answers
        Also answer, and score. Without, no cache is kept and only attention and entropy are computed.
    queries
        Rows of further tokens: those of the ``question``, of the generated ``answer``, or of these prompt positions (negative ones
        count from the end). They come as `attention_rows`.
    residual
        Also keep the last prompt token's residual stream after every layer: the layer's own output, before anything a model adds between
        layers (vision features, at the picture's tokens only), and of the last layer before the final norm.
    store
        Fill this Zarr folder. Killed at any moment, the run loses at most the batch in flight, and the same call takes it up again and
        ends with the identical data set; a finished store is opened without running the model. Other settings are refused, and so are
        other pictures: of an unfinished store every picture that goes through the model is compared with what was planned, of a finished
        one those of its first, middle and last sample only. Planning holds what is known of every token of every sample, about 81 bytes
        a token, and a little more than twice that while it is written: some 2 GB for 10,000 samples of 1,200 tokens.
    shard
        ``"i/n"``: only batches i, i + n, ..., for several processes that fill one store, or traces in memory to be joined.
    progress
        Force a progress bar on or off; by default it shows in terminals and notebooks.
    max_new_tokens
        Longest answer, in tokens.
    self_check
        Compare the first batch's rows with the model's own attention output.
    store_dtype
        ``float16`` or ``float32``: attention on disk. It is read, and kept without a store, as float32.
    settings
        Further JSON-able settings, kept as the attribute `settings`.
    resume_command
        How an unfinished store is taken up again, for its error message; by default this call.

    Returns
    -------
    xr.Dataset
        `attention` (sample, layer, head, token) float32, sums to 1 over `token`, NaN past a prompt's end; `coverage` (sample, token),
        share of each token's region that is evidence; text, scores and provenance. With a store it is lazy. While other shards are
        missing it holds this shard's samples, and the attribute `store_state` says so.

    Raises
    ------
    BenchmarkError
        The benchmark, or its shard, has no sample, or two samples share an id.
    CaptureError
        Rows fail the self-check.
    InterpError
        An argument is not understood.
    StoreError
        `store` was begun with other settings or pictures, is something else, or is damaged.
    AlignmentError
        A prompt, its tokens and its picture do not line up.
    """
    request = Request(prompt, batch_size, answers, queries, residual, max_new_tokens)
    batches = request.batches(len(bench), shard)
    extra = kept(settings)
    if store is None:
        return _in_memory(vlm, bench, request, batches, shard, extra, progress, self_check)
    path = Path(store)
    begun = filling.begin(
        vlm, bench, request, path, dtype=store_dtype, attrs={"shard": "", **extra}, resume=resume_command, progress=progress
    )
    if not begun.sealed:
        _fill(vlm, bench, request, batches, begun, progress, self_check)
        if len(begun.todo()):
            return filling.part(vlm, request, begun, [i for batch in batches for i in batch], shard or "")
        begun.seal(lambda tree: filling.derive(vlm, request, tree))
    return open_trace(path)


def _in_memory(
    vlm: VLM,
    bench: Sequence[Sample],
    request: Request,
    batches: Sequence[range],
    shard: str | None,
    extra: Mapping[str, Any],
    progress: bool | None,
    self_check: bool,
) -> xr.Dataset:
    samples = {i: bench[i] for batch in batches for i in batch}
    identify(samples.values())  # refuses an id that occurs twice, before the work
    records: list[Record] = []
    _run(vlm, samples.__getitem__, request, batches, lambda _, made: records.extend(made), progress, self_check)
    dataset = assemble(records, vlm, request.settings, request.max_new_tokens)
    return dataset.assign_attrs(shard=shard or "", **extra)


def _fill(
    vlm: VLM, bench: Sequence[Sample], request: Request, batches: Sequence[range], store: Store, progress: bool | None, self_check: bool
) -> None:
    """Do the batches of which a sample is missing; one that is there is run again with its batch, and left as it is."""
    todo = {int(i) for i in store.todo()}
    pictures = Pictures(store)

    def keep(batch: range, records: list[Record]) -> None:
        for index, record in zip(batch, records, strict=True):
            pictures.check(index, record.facts.id, record.facts.sha256)
        for index, record in zip(batch, records, strict=True):
            if index in todo:
                store.write(index, filling.values(record, request))

    missing = [batch for batch in batches if not todo.isdisjoint(batch)]
    _run(vlm, bench.__getitem__, request, missing, keep, progress, self_check)


def _run(
    vlm: VLM,
    get: Callable[[int], Sample],
    request: Request,
    batches: Sequence[range],
    keep: _Keep,
    progress: bool | None,
    self_check: bool,
) -> None:
    with serving_rows(vlm.hf_model):
        for number, batch in enumerate(track(batches, len(batches), "tracing", progress)):
            began = time.perf_counter()
            samples = [get(i) for i in batch]
            encodings = [vlm.encode(sample, request.prompt) for sample in samples]
            records = request.trace(vlm, samples, encodings, check=self_check and number == 0)
            for record in records:
                record.scores["seconds"] = (time.perf_counter() - began) / len(batch)
            keep(batch, records)
