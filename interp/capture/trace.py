"""`interp.trace`: a benchmark through a model, into one labelled dataset."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from zarr.errors import ZarrUserWarning

from interp.benchmarks.sample import Sample
from interp.capture.attention import serving_rows
from interp.capture.forward import Prefill, prefill
from interp.capture.labels import assemble
from interp.capture.progress import track
from interp.capture.record import Record, record_sample
from interp.decoding import greedy, reference_logprobs
from interp.encoding import Encoding, answer_ids
from interp.errors import BenchmarkError, InterpError
from interp.vlm import VLM

Queries = Literal["answer", "question"] | Sequence[int]


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
        Also keep the last prompt token's residual stream after every layer.
    store
        Write the finished dataset to this Zarr folder, in one go; it must not exist yet.
    shard
        ``"i/n"``: only samples i, i + n, ... (for several writers).
    progress
        Force a progress bar on or off; by default it shows in terminals and notebooks.
    max_new_tokens
        Longest answer, in tokens.
    self_check
        Compare the first batch's rows with the model's own attention output.

    Returns
    -------
    xr.Dataset
        `attention` (sample, layer, head, token) float32, sums to 1 over `token`, NaN past a prompt's end; `coverage` (sample, token),
        share of each token's region that is evidence; text, scores and provenance. See the package's data description.

    Raises
    ------
    BenchmarkError
        The benchmark, or its shard, has no sample, or two samples share an id.
    CaptureError
        Rows fail the self-check.
    InterpError
        An argument is not understood, or `store` exists.
    AlignmentError
        A prompt, its tokens and its picture do not line up.
    """
    if queries is not None and not isinstance(queries, str):
        queries = [int(position) for position in queries]  # numpy's numbers are no JSON
    _check_arguments(batch_size, max_new_tokens, queries, answers, store)
    chosen = _shard(bench, shard)
    repeated = [name for name, count in Counter(sample.id for sample in chosen).items() if count > 1]
    if repeated:
        raise BenchmarkError(f"Sample id {repeated[0]!r} occurs more than once in the benchmark; give every sample an id of its own.")
    records: list[Record] = []
    starts = range(0, len(chosen), batch_size)
    with serving_rows(vlm.hf_model):
        for start in track(starts, len(starts), "tracing", progress):
            began = time.perf_counter()
            batch = chosen[start : start + batch_size]
            encodings = [vlm.encode(sample, prompt) for sample in batch]
            made = _trace_batch(vlm, batch, encodings, answers, queries, residual, max_new_tokens, check=self_check and start == 0)
            seconds = (time.perf_counter() - began) / len(batch)
            for record in made:
                record.scores["seconds"] = seconds
            records += made
    settings = {
        "prompt": prompt,
        "answers": answers,
        "queries": queries if isinstance(queries, str) else list(queries or ()),
        "max_new_tokens": max_new_tokens,
        "shard": shard or "",
    }
    dataset = assemble(records, vlm, settings)
    if store is not None:
        _write(dataset, store)
    return dataset


def _write(dataset: xr.Dataset, store: str | Path) -> None:
    with warnings.catch_warnings():
        # consolidated metadata is what readers look for first; zarr warns only that its specification is younger than the practice
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part", category=ZarrUserWarning)
        dataset.to_zarr(store, mode="w-", consolidated=True)


def _trace_batch(
    vlm: VLM,
    batch: Sequence[Sample],
    encodings: Sequence[Encoding],
    answers: bool,
    queries: Queries | None,
    residual: bool,
    max_new_tokens: int,
    check: bool,
) -> list[Record]:
    rows = _positions(encodings, queries)
    first = prefill(vlm, encodings, rows=rows, use_cache=answers, residual=residual, check=check)
    records = [
        record_sample(vlm, sample, encoding, first, index, rows[index] if rows is not None else None)
        for index, (sample, encoding) in enumerate(zip(batch, encodings, strict=True))
    ]
    if answers:
        first.outputs.attentions = None  # copied out above; the answer does not need them
        _answer(vlm, batch, encodings, first, records, max_new_tokens, keep_rows=queries == "answer")
    return records


def _answer(
    vlm: VLM,
    batch: Sequence[Sample],
    encodings: Sequence[Encoding],
    first: Prefill,
    records: Sequence[Record],
    max_new_tokens: int,
    keep_rows: bool,
) -> None:
    """Answer from the prefill's cache, after the references were scored against it."""
    wanted = [
        [answer_ids(vlm.processor, encoding.text, reference) for reference in sample.references]
        for sample, encoding in zip(batch, encodings, strict=True)
    ]
    end = vlm.end_tokens[0]
    total, mean = reference_logprobs(first.run, first.outputs, wanted, end, len(batch))
    extra = {"query_rows": "last", "output_attentions": True} if keep_rows else None
    padded = first.run.ids.shape[1]
    said = greedy(first.run, first.outputs, vlm.end_tokens, vlm.pad_token, max_new_tokens, extra, feed_last=keep_rows)
    for index, (record, text) in enumerate(zip(records, vlm.decode(said.ids), strict=True)):
        ids = said.ids[index].cpu().numpy()
        ended = np.flatnonzero(np.isin(ids, vlm.end_tokens))
        record.answer(text, ids[: ended[0] + 1] if ended.size else ids)
        record.scores["reference_logprob"], record.scores["reference_logprob_mean"] = float(total[index]), float(mean[index])
        if keep_rows:
            spoken = ended[0] if ended.size else len(ids)
            left = padded - len(encodings[index])
            record.keep_answer_rows([torch.stack([layer[index, :, 0, left:] for layer in step]) for step in said.rows[:spoken]])


def _positions(encodings: Sequence[Encoding], queries: Queries | None) -> list[list[int]] | None:
    """Per prompt, the positions whose rows are wanted. Rows of the answer come later, from its own steps."""
    if queries is None or queries == "answer":
        return None
    if queries == "question":
        return [encoding.question_tokens.tolist() for encoding in encodings]
    rows = []
    for encoding in encodings:
        length = len(encoding)
        for position in queries:
            if not -length <= int(position) < length:
                raise InterpError(f"Query position {position} is outside a prompt of {length} tokens; use -{length} to {length - 1}.")
        rows.append([int(position) % length for position in queries])
    return rows


def _check_arguments(batch_size: int, max_new_tokens: int, queries: Any, answers: bool, store: str | Path | None) -> None:
    if batch_size < 1 or max_new_tokens < 1:
        raise InterpError(f"batch_size ({batch_size}) and max_new_tokens ({max_new_tokens}) must be 1 or more.")
    if isinstance(queries, str) and queries not in ("answer", "question"):
        raise InterpError(f"queries={queries!r} is not understood; use 'answer', 'question', or a list of prompt positions.")
    if queries == "answer" and not answers:
        raise InterpError("queries='answer' needs the answer; drop answers=False.")
    if store is not None and Path(store).exists():
        raise InterpError(f"Store {str(store)!r} already exists; choose another path, or delete it first.")


def _shard(bench: Sequence[Sample], shard: str | None) -> list[Sample]:
    if len(bench) == 0:
        raise BenchmarkError("The benchmark has no samples; check its split and its limit.")
    if shard is None:
        return list(bench)
    index, slash, count = shard.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise InterpError(f"shard={shard!r} is not understood; write 'i/n' with i from 0 to n - 1, for example '0/2'.")
    chosen = [bench[i] for i in range(int(index), len(bench), int(count))]
    if not chosen:
        raise BenchmarkError(f"Shard {shard!r} of {len(bench)} samples is empty; use fewer shards.")
    return chosen
