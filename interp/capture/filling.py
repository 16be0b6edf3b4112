"""A trace that goes to a store: plan it from the encoded samples, capture batch by batch, derive texts and scores, seal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp.answers import SCORES
from interp.benchmarks.sample import Sample
from interp.capture.answering import answer_text
from interp.capture.batch import positions
from interp.capture.facts import TEXT, Facts, identify
from interp.capture.labels import describe, description, provenance_of_model, row_lengths, static
from interp.capture.pictures import Pictures
from interp.capture.progress import track
from interp.capture.reading import as_trace
from interp.capture.record import Record
from interp.capture.request import Request
from interp.capture.store import Plan, Planned, Store
from interp.errors import InterpError
from interp.vlm import VLM

STORE_DTYPES = ("float16", "float32")
_PACKED = ("entropy", "seconds")
_PACKED_ANSWERS = ("reference_logprob", "reference_logprob_mean")


def begin(
    vlm: VLM,
    bench: Sequence[Sample],
    request: Request,
    path: Path,
    *,
    dtype: str,
    attrs: Mapping[str, Any],
    resume: str | None,
    progress: bool | None,
) -> Store:
    """The trace's store, planned if there is none. Planning encodes every sample, so a bad one is met before any forward pass.

    Raises
    ------
    StoreError
        The store was begun with other settings or pictures, or is something else.
    InterpError
        `dtype` is not understood.
    """
    if dtype not in STORE_DTYPES:
        raise InterpError(f"store_dtype={dtype!r} is not understood; use {' or '.join(STORE_DTYPES)}.")
    facts: list[Facts] = []

    def survey() -> list[Facts]:
        if not facts:
            facts.extend(_survey(vlm, bench, request, progress))
        return facts

    # a sample may be costly to build: a new store's samples are gone through once, for identity and plan
    there = path.exists()
    asked = identify(bench[i] for i in range(len(bench))) if there else identify(survey())
    model = provenance_of_model(vlm)
    identity = {**model, **asked, **request.settings, "store_dtype": dtype}
    again = resume or f"interp.trace(..., store={str(path)!r}) with the same model, benchmark and settings"
    store = Store.resume_or_plan(path, "trace", identity, lambda: _plan(vlm, survey(), request, dtype, attrs), again)
    if there:
        Pictures(store).check_some(bench)
    return store


def values(record: Record, request: Request) -> dict[str, NDArray[Any]]:
    """What capture writes of one sample, by the names of the plan."""
    found: dict[str, NDArray[Any]] = {
        "trace/attention": record.attention,
        "capture/packed": np.array([record.scores[name] for name in _packed(request)]),
    }
    if request.answers:
        found["trace/answer_ids"] = record.answer_ids
    if request.residual and record.residual is not None:
        found["trace/residual"] = record.residual
    if request.queries is not None and record.rows is not None and record.row_positions is not None:
        found |= {"rows/attention_rows": record.rows, "rows/query_position": record.row_positions}
    return found


def derive(vlm: VLM, request: Request, tree: xr.DataTree, samples: Sequence[int] | slice = slice(None)) -> dict[str, xr.Dataset]:
    """Texts and scores of `samples`, which follow from what was captured; the same as in memory."""
    trace = tree["trace"].to_dataset().isel(sample=samples)
    packed = tree["capture"].to_dataset()["packed"].isel(sample=samples).values
    scores = {name: packed[:, k] for k, name in enumerate(_packed(request))}
    derived: dict[str, xr.Dataset] = {}
    if request.answers:
        said = [answer_text(vlm, ids) for ids in trace["answer_ids"].values]
        references = [json.loads(text) for text in trace["references"].values]
        for name, score in SCORES.items():
            scores[name] = np.array([score(text, accepted) for text, accepted in zip(said, references, strict=True)])
        derived["trace"] = describe(xr.Dataset({"prediction": ("sample", np.array(said, dtype=TEXT))}))
    labelled = {name: ("sample", score) for name, score in scores.items()}
    derived["scores"] = describe(xr.Dataset(labelled, coords={"sample": trace["sample"].variable}))
    return derived


def part(vlm: VLM, request: Request, store: Store, samples: Sequence[int], shard: str) -> xr.Dataset:
    """Finished samples of a store that is not complete, lazily; attributes `shard` and `store_state` say so."""
    tree = store.tree()
    dataset = as_trace(tree).isel(sample=samples)
    for derived in derive(vlm, request, tree, samples).values():
        dataset = dataset.assign(derived.data_vars)
    done, total = store.progress
    return dataset.assign_attrs(shard=shard, store_state=f"shard {shard} only; {done} of {total} samples of the store are done")


def _survey(vlm: VLM, bench: Sequence[Sample], request: Request, progress: bool | None) -> list[Facts]:
    found = []
    for index in track(range(len(bench)), len(bench), "encoding", progress):
        sample = bench[index]
        encoding = vlm.encode(sample, request.prompt)
        positions([encoding], request.queries)  # a position outside a prompt is met here, not hours later
        found.append(Facts.of(sample, encoding))
    return found


def _plan(vlm: VLM, facts: list[Facts], request: Request, dtype: str, attrs: Mapping[str, Any]) -> Plan:
    trace = static(facts, vlm, request.settings).assign_attrs(attrs)
    n, layers, heads = len(facts), vlm.n_layers, vlm.n_heads
    shapes: dict[str, tuple[tuple[str, ...], tuple[int, ...], str, float]] = {
        "trace/attention": (("layer", "head", "token"), (layers, heads, trace.sizes["token"]), dtype, np.nan),
        "capture/packed": (("field",), (len(_packed(request)),), "float64", np.nan),
    }
    groups = {"trace": trace}
    if request.answers:
        shapes["trace/answer_ids"] = (("step",), (request.max_new_tokens,), "int64", -1)
    if request.residual:
        width = vlm.hf_model.config.get_text_config().hidden_size
        # not in half precision: a residual stream's largest numbers do not fit
        shapes["trace/residual"] = (("layer", "feature"), (layers, width), "float32", np.nan)
    if request.queries is not None:
        query, key = row_lengths(facts, request.queries, request.max_new_tokens)
        shapes["rows/attention_rows"] = (("layer", "head", "query", "key"), (layers, heads, query, key), dtype, np.nan)
        shapes["rows/query_position"] = (("query",), (query,), "int64", -1)
        groups["rows"] = xr.Dataset(coords={name: trace[name].variable for name in ("sample", "layer", "head")})
    captured = {
        name: Planned(("sample", *dims), (n, *shape), kind, fill, description(name.split("/")[1]))
        for name, (dims, shape, kind, fill) in shapes.items()
    }
    packed = captured["capture/packed"]
    return Plan(groups, captured | {"capture/packed": replace(packed, attrs={"fields": list(_packed(request))})})


def _packed(request: Request) -> tuple[str, ...]:
    return (*_PACKED, *_PACKED_ANSWERS) if request.answers else _PACKED
