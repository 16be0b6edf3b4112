"""Records of samples, padded and labelled: names, units, coordinates and provenance of a trace."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import DTypeLike, NDArray

from interp.capture.record import Record
from interp.encoding import PADDING, SEGMENTS
from interp.vlm import VLM

TEXT = np.dtypes.StringDType()

# Every variable's description: long name, and unit where it has one.
DESCRIPTIONS: dict[str, tuple[str, str]] = {
    "attention": ("attention of the last prompt token", "1"),
    "attention_rows": ("attention of further query tokens", "1"),
    "residual": ("residual stream of the last prompt token, after each layer", ""),
    "coverage": ("share of the token's image region that is evidence", "1"),
    "token_box": ("image region of the token (x0, y0, x1, y1)", "pixel"),
    "segment": ("part of the prompt", ""),
    "view": ("rendering of the picture the token belongs to", ""),
    "row": ("row of the token in its view", ""),
    "col": ("column of the token in its view", ""),
    "image_index": ("picture the token belongs to", ""),
    "token_id": ("vocabulary id", ""),
    "token_text": ("text of the token", ""),
    "n_token": ("length of the prompt", "token"),
    "layer_kind": ("reach of the layer's attention", ""),
    "answer_ids": ("generated token ids, the end token included", ""),
    "question": ("question", ""),
    "prediction": ("generated answer", ""),
    "references": ("accepted answers, a JSON list", ""),
    "evidence_box": ("annotated region (x0, y0, x1, y1)", "pixel"),
    "evidence_image": ("picture the region is on", ""),
    "evidence_role": ("role of the region: evidence, anchor or distractor", ""),
    "evidence_text": ("text of the region", ""),
    "image_size": ("size of the original picture", "pixel"),
    "image_uri": ("where the picture is", ""),
    "image_sha256": ("SHA-256 of the picture's RGB pixels", ""),
    "exact_match": ("exact match after normalisation", "1"),
    "contains": ("answer contains a reference", "1"),
    "token_f1": ("token F1", "1"),
    "anls": ("normalised Levenshtein similarity", "1"),
    "vqa_accuracy": ("VQA accuracy", "1"),
    "reference_logprob": ("log-probability of the best reference and the end token", "nat"),
    "reference_logprob_mean": ("log-probability of the best reference and the end token, per token", "nat"),
    "entropy": ("entropy of the first answer token", "nat"),
    "seconds": ("time per sample", "s"),
    "visibility": ("what the model's preprocessing keeps of the evidence", ""),
    "query_position": ("position of the query token in its sequence", ""),
}
_PACKAGES = ("interp", "torch", "transformers", "nnsight", "xarray", "numpy", "pillow")


def assemble(records: Sequence[Record], vlm: VLM, settings: Mapping[str, Any]) -> xr.Dataset:
    """A labelled dataset of traced samples.

    Parameters
    ----------
    records
        At least one.
    vlm
        The model, for provenance.
    settings
        The call's settings, for provenance.
    """
    variables: dict[str, tuple[tuple[str, ...], Any]] = {
        "attention": (("sample", "layer", "head", "token"), _pad([r.attention for r in records], np.nan, np.float32)),
        "coverage": (("sample", "token"), _pad([r.coverage for r in records], np.nan, np.float64)),
        "question": (("sample",), _text([r.sample.question for r in records])),
        "references": (("sample",), _text([json.dumps(list(r.sample.references)) for r in records])),
        **_regions(records),
        **_images(records),
    }
    for name in records[0].scores:
        variables[name] = (("sample",), np.asarray([r.scores[name] for r in records], dtype=np.float64))
    if records[0].prediction is not None:
        variables["prediction"] = (("sample",), _text([r.prediction or "" for r in records]))
        variables["answer_ids"] = (("sample", "step"), _pad([r.answer_ids for r in records], -1, np.int64))
    if records[0].residual is not None:
        variables["residual"] = (("sample", "layer", "feature"), np.stack([_present(r.residual) for r in records]))
    coordinates = _coordinates(records, vlm)
    if records[0].rows is not None:
        dims = ("sample", "layer", "head", "query", "key")
        variables["attention_rows"] = (dims, _pad([_present(r.rows) for r in records], np.nan, np.float32))
        coordinates["query_position"] = (("sample", "query"), _pad([_present(r.row_positions) for r in records], -1, np.int64))
    dataset = xr.Dataset(variables, coords=coordinates, attrs=provenance(records, vlm, settings))
    return describe(dataset)


def describe(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with long names, units and flags on its variables."""
    for name, variable in dataset.variables.items():
        long_name, unit = DESCRIPTIONS.get(str(name), ("", ""))
        if long_name:
            variable.attrs["long_name"] = long_name
        if unit:
            variable.attrs["units"] = unit
    dataset["segment"].attrs |= {
        "flag_values": np.arange(PADDING, len(SEGMENTS), dtype=np.int8).tolist()[1:],
        "flag_meanings": " ".join(SEGMENTS),
    }
    return dataset


def _coordinates(records: Sequence[Record], vlm: VLM) -> dict[str, Any]:
    token = ("sample", "token")

    def spread(get: Callable[[Record], Any], fill: Any, dtype: DTypeLike) -> NDArray[Any]:
        return _pad([np.asarray(get(r)) for r in records], fill, dtype)

    coordinates: dict[str, Any] = {
        "sample": _text([r.sample.id for r in records]),
        "layer": np.arange(vlm.n_layers),
        "head": np.arange(vlm.n_heads),
        "corner": _text(["x0", "y0", "x1", "y1"]),
        "axis": _text(["width", "height"]),
        "segment": (token, spread(lambda r: r.encoding.segment, PADDING, np.int8)),
        "token_box": ((*token, "corner"), spread(lambda r: r.encoding.token_boxes, np.nan, np.float64)),
        "view": (token, spread(lambda r: r.encoding.view, -1, np.int32)),
        "row": (token, spread(lambda r: r.encoding.row, -1, np.int32)),
        "col": (token, spread(lambda r: r.encoding.col, -1, np.int32)),
        "image_index": (token, spread(lambda r: r.encoding.image_index, -1, np.int32)),
        "token_id": (token, spread(lambda r: r.encoding.token_ids, -1, np.int64)),
        "token_text": (token, _pad_text([r.encoding.token_text for r in records])),
        "n_token": (("sample",), np.asarray([len(r.encoding) for r in records], dtype=np.int64)),
        "layer_kind": (("layer",), _text(vlm.layer_kinds)),
        "dataset": (("sample",), _text([r.sample.dataset for r in records])),
        "split": (("sample",), _text([r.sample.split for r in records])),
        "image_id": (("sample",), _text([r.sample.image_id for r in records])),
        "visibility": (("sample",), _text([r.visibility for r in records])),
    }
    for knob in dict.fromkeys(name for r in records for name in r.sample.knobs):
        coordinates[f"knob_{knob}"] = (("sample",), _knob([r.sample.knobs.get(knob) for r in records]))
    return coordinates


def _knob(values: Sequence[Any]) -> NDArray[Any]:
    """Booleans and numbers as they are (a missing number is NaN), anything else as text (missing: empty)."""
    if all(isinstance(v, bool | np.bool_) for v in values):
        return np.asarray(values, dtype=bool)
    if all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in values):
        return np.asarray(values, dtype=np.int64)
    if all(v is None or (isinstance(v, int | float | np.number) and not isinstance(v, bool)) for v in values):
        return np.asarray([np.nan if v is None else v for v in values], dtype=np.float64)
    return _text(["" if v is None else str(v) for v in values])


def _regions(records: Sequence[Record]) -> dict[str, tuple[tuple[str, ...], Any]]:
    regions = [r.sample.regions for r in records]
    boxes = [np.asarray([region.box for region in marked], dtype=np.float64).reshape(-1, 4) for marked in regions]
    dims = ("sample", "evidence")
    return {
        "evidence_box": ((*dims, "corner"), _pad(boxes, np.nan, np.float64)),
        "evidence_image": (dims, _pad([np.asarray([x.image_index for x in marked]) for marked in regions], -1, np.int32)),
        "evidence_role": (dims, _pad_text([[x.role for x in marked] for marked in regions])),
        "evidence_text": (dims, _pad_text([[x.text or "" for x in marked] for marked in regions])),
    }


def _images(records: Sequence[Record]) -> dict[str, tuple[tuple[str, ...], Any]]:
    # The dimension cannot be called image_index: xarray keeps a dimension's name for one-dimensional coordinates along it.
    dims = ("sample", "image")
    return {
        "image_size": ((*dims, "axis"), _pad([np.asarray([i.size for i in r.encoding.images]) for r in records], -1, np.int32)),
        "image_uri": (dims, _pad_text([r.sample.image_uris for r in records])),
        "image_sha256": (dims, _pad_text([r.sha256 for r in records])),
    }


def provenance(records: Sequence[Record], vlm: VLM, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Where a trace comes from, as attributes that any file format can hold."""
    model = {
        "model": vlm.name,
        "revision": vlm.revision,
        "family": vlm.family.model_type,
        "dtype": str(vlm.dtype).removeprefix("torch."),
        "prompt_order": vlm.prompt_order,
        "attention_implementation": "sdpa, rows in float32",
        "image_backend": "pil" if type(vlm.processor.image_processor).__name__.endswith("Pil") else "torchvision",
        "image_processor": type(vlm.processor.image_processor).__name__,
    }
    source = {
        "benchmark": ", ".join(sorted({r.sample.dataset for r in records})),
        "split": ", ".join(sorted({r.sample.split for r in records})),
    }
    asked = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    identity = json.dumps({**model, **source, **asked, "samples": [r.sample.id for r in records]}, sort_keys=True)
    return {
        **model,
        **source,
        **asked,
        "versions": json.dumps(_versions()),
        "settings_hash": hashlib.sha256(identity.encode()).hexdigest()[:16],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout that is not installed
            found[package] = "unknown"
    return found


def _pad(arrays: Sequence[NDArray[Any]], fill: Any, dtype: DTypeLike) -> NDArray[Any]:
    """Stack arrays of one rank into the smallest box that holds them all."""
    shape = tuple(max(a.shape[axis] for a in arrays) for axis in range(arrays[0].ndim))
    padded = np.full((len(arrays), *shape), fill, dtype=dtype)
    for index, array in enumerate(arrays):
        padded[(index, *(slice(n) for n in array.shape))] = array
    return padded


def _pad_text(lists: Sequence[Sequence[str]]) -> NDArray[Any]:
    longest = max((len(texts) for texts in lists), default=0)
    return _text([[*texts, *[""] * (longest - len(texts))] for texts in lists])


def _text(values: Any) -> NDArray[Any]:
    return np.array(values, dtype=TEXT)


def _present(value: Any) -> Any:
    assert value is not None  # a trace keeps an optional array for all samples or for none
    return value
