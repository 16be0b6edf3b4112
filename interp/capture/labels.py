"""Facts and records of samples, padded and labelled: names, units, coordinates and provenance of a trace."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import DTypeLike, NDArray

from interp.capture.facts import TEXT, Facts, identify
from interp.capture.record import Record
from interp.encoding import PADDING, SEGMENTS
from interp.errors import InterpError
from interp.vlm import VLM

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


def assemble(records: Sequence[Record], vlm: VLM, settings: Mapping[str, Any], steps: int | None = None) -> xr.Dataset:
    """A labelled dataset of traced samples, in memory.

    Parameters
    ----------
    records
        At least one.
    vlm
        The model, for provenance.
    settings
        The call's settings, for provenance.
    steps
        Length of the answers' axis; by default that of the longest answer.
    """
    facts = [record.facts for record in records]
    dataset = static(facts, vlm, settings)
    variables: dict[str, tuple[tuple[str, ...], Any]] = {
        "attention": (("sample", "layer", "head", "token"), pad([r.attention for r in records], np.nan, np.float32))
    }
    for name in records[0].scores:
        variables[name] = (("sample",), np.asarray([r.scores[name] for r in records], dtype=np.float64))
    if records[0].prediction is not None:
        longest = max(len(r.answer_ids) for r in records) if steps is None else steps
        variables["prediction"] = (("sample",), _text([r.prediction or "" for r in records]))
        variables["answer_ids"] = (("sample", "step"), pad([r.answer_ids for r in records], -1, np.int64, (longest,)))
    if records[0].residual is not None:
        variables["residual"] = (("sample", "layer", "feature"), np.stack([_present(r.residual) for r in records]))
    if records[0].rows is not None:
        query, key = row_lengths(facts, settings.get("queries"), steps or 0)
        shape = (len(dataset["layer"]), len(dataset["head"]), query, key)
        dims = ("sample", "layer", "head", "query", "key")
        variables["attention_rows"] = (dims, pad([_present(r.rows) for r in records], np.nan, np.float32, shape))
        positions = pad([_present(r.row_positions) for r in records], -1, np.int64, (query,))
        dataset = dataset.assign_coords(query_position=(("sample", "query"), positions))
    return describe(dataset.assign(variables))


def static(facts: Sequence[Facts], vlm: VLM, settings: Mapping[str, Any]) -> xr.Dataset:
    """What is known before the model runs: text, regions, pictures, tokens, and provenance as attributes."""
    variables: dict[str, tuple[tuple[str, ...], Any]] = {
        "coverage": (("sample", "token"), pad([f.coverage for f in facts], np.nan, np.float64)),
        "question": (("sample",), _text([f.question for f in facts])),
        "references": (("sample",), _text([json.dumps(list(f.references)) for f in facts])),
        **_regions(facts),
        **_images(facts),
    }
    dataset = xr.Dataset(variables, coords=_coordinates(facts, vlm), attrs=provenance(facts, vlm, settings))
    return describe(dataset)


def row_lengths(facts: Sequence[Facts], queries: Any, steps: int) -> tuple[int, int]:
    """Lengths of the `query` and `key` axes of further rows; those of an answer go past the prompt by up to `steps` tokens."""
    tokens = max(len(f) for f in facts)
    if queries == "answer":
        return steps, tokens + steps
    return (max(f.n_question for f in facts) if queries == "question" else len(queries)), tokens


def describe(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with long names, units and flags on its variables."""
    for name, variable in dataset.variables.items():
        variable.attrs |= description(str(name))
    return dataset


def description(name: str) -> dict[str, Any]:
    """Attributes of the variable called `name`: long name, units and flags, where it has them."""
    long_name, unit = DESCRIPTIONS.get(name, ("", ""))
    found: dict[str, Any] = {key: text for key, text in (("long_name", long_name), ("units", unit)) if text}
    if name == "segment":
        found |= {"flag_values": list(range(len(SEGMENTS))), "flag_meanings": " ".join(SEGMENTS)}
    return found


def _coordinates(facts: Sequence[Facts], vlm: VLM) -> dict[str, Any]:
    token = ("sample", "token")
    coordinates: dict[str, Any] = {
        "sample": _text([f.id for f in facts]),
        "layer": np.arange(vlm.n_layers),
        "head": np.arange(vlm.n_heads),
        "corner": _text(["x0", "y0", "x1", "y1"]),
        "axis": _text(["width", "height"]),
        "segment": (token, pad([f.segment for f in facts], PADDING, np.int8)),
        "token_box": ((*token, "corner"), pad([f.token_boxes for f in facts], np.nan, np.float64)),
        "view": (token, pad([f.view for f in facts], -1, np.int32)),
        "row": (token, pad([f.row for f in facts], -1, np.int32)),
        "col": (token, pad([f.col for f in facts], -1, np.int32)),
        "image_index": (token, pad([f.image_index for f in facts], -1, np.int32)),
        "token_id": (token, pad([f.token_ids for f in facts], -1, np.int64)),
        "token_text": (token, pad([f.token_text for f in facts], "", TEXT)),
        "n_token": (("sample",), np.asarray([len(f) for f in facts], dtype=np.int64)),
        "layer_kind": (("layer",), _text(vlm.layer_kinds)),
        "dataset": (("sample",), _text([f.dataset for f in facts])),
        "split": (("sample",), _text([f.split for f in facts])),
        "image_id": (("sample",), _text([f.image_id for f in facts])),
        "visibility": (("sample",), _text([f.visibility for f in facts])),
    }
    for knob in dict.fromkeys(name for f in facts for name in f.knobs):
        coordinates[f"knob_{knob}"] = (("sample",), _knob([f.knobs.get(knob) for f in facts]))
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


def _regions(facts: Sequence[Facts]) -> dict[str, tuple[tuple[str, ...], Any]]:
    regions = [f.regions for f in facts]
    boxes = [np.asarray([region.box for region in marked], dtype=np.float64).reshape(-1, 4) for marked in regions]
    dims = ("sample", "evidence")
    return {
        "evidence_box": ((*dims, "corner"), pad(boxes, np.nan, np.float64)),
        "evidence_image": (dims, pad([np.asarray([x.image_index for x in marked]) for marked in regions], -1, np.int32)),
        "evidence_role": (dims, _pad_text([[x.role for x in marked] for marked in regions])),
        "evidence_text": (dims, _pad_text([[x.text or "" for x in marked] for marked in regions])),
    }


def _images(facts: Sequence[Facts]) -> dict[str, tuple[tuple[str, ...], Any]]:
    # The dimension cannot be called image_index: xarray keeps a dimension's name for one-dimensional coordinates along it.
    dims = ("sample", "image")
    return {
        "image_size": ((*dims, "axis"), pad([np.asarray(f.image_sizes) for f in facts], -1, np.int32)),
        "image_uri": (dims, _pad_text([f.image_uris for f in facts])),
        "image_sha256": (dims, _pad_text([f.sha256 for f in facts])),
    }


def provenance(facts: Sequence[Facts], vlm: VLM, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Where a trace comes from, as attributes that any file format can hold."""
    model = provenance_of_model(vlm)
    source = identify(facts)
    asked = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    identity = json.dumps({**model, **source, **asked}, sort_keys=True)
    return {
        **model,
        **source,
        **asked,
        "versions": json.dumps(versions()),
        "settings_hash": hashlib.sha256(identity.encode()).hexdigest()[:16],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def provenance_of_model(vlm: VLM) -> dict[str, str]:
    """The model and everything about it that its numbers follow from."""
    images = vlm.processor.image_processor
    return {
        "model": vlm.name,
        "revision": vlm.revision,
        "family": vlm.family.model_type,
        "dtype": str(vlm.dtype).removeprefix("torch."),
        "prompt_order": vlm.prompt_order,
        "attention_implementation": "sdpa, rows in float32",
        "image_backend": getattr(images, "backend", "unknown"),
        "image_processor": type(images).__name__,
        "image_options": json.dumps(vlm.image_options, sort_keys=True),
        "processor": type(vlm.processor).__name__,
        **({"edits": "; ".join(edit.description for edit in vlm.edits)} if vlm.edits else {}),
    }


def kept(settings: Mapping[str, Any] | None) -> dict[str, str]:
    """A caller's own settings as the attribute `settings`, a JSON text; nothing where there are none.

    Raises
    ------
    InterpError
        They are no JSON.
    """
    try:
        return {} if settings is None else {"settings": json.dumps(dict(settings))}
    except TypeError as error:
        raise InterpError(f"settings cannot be kept ({error}); give text, numbers, lists and dictionaries only.") from None


@cache
def versions() -> dict[str, str]:
    """What is installed of the packages that numbers depend on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout that is not installed
            found[package] = "unknown"
    return found


def pad(arrays: Sequence[NDArray[Any]], fill: Any, dtype: DTypeLike, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """Stack arrays of one rank into a box of `shape` each, or into the smallest that holds them all."""
    if shape is None:
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
