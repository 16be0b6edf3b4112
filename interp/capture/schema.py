"""What a trace must hold: variables, dimensions, number types, and ranges that are cheap to check. The large arrays are not read."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

_TOKEN = ("sample", "token")
_ROW = ("sample", "layer", "head", "query", "key")

# name: (dimensions, dtype or None for text)
_VARIABLES: dict[str, tuple[tuple[str, ...], str | None]] = {
    "attention": (("sample", "layer", "head", "token"), "float32"),
    "coverage": (_TOKEN, "float64"),
    "question": (("sample",), None),
    "references": (("sample",), None),
    "evidence_box": (("sample", "evidence", "corner"), "float64"),
    "evidence_image": (("sample", "evidence"), "int32"),
    "evidence_role": (("sample", "evidence"), None),
    "evidence_text": (("sample", "evidence"), None),
    "image_size": (("sample", "image", "axis"), "int32"),
    "image_uri": (("sample", "image"), None),
    "image_sha256": (("sample", "image"), None),
    "entropy": (("sample",), "float64"),
    "seconds": (("sample",), "float64"),
}
_OPTIONAL: dict[str, tuple[tuple[str, ...], str | None]] = {
    "prediction": (("sample",), None),
    "answer_ids": (("sample", "step"), "int64"),
    "residual": (("sample", "layer", "feature"), "float32"),
    "attention_rows": (_ROW, "float32"),
    **{name: (("sample",), "float64") for name in ("exact_match", "contains", "token_f1", "anls", "vqa_accuracy")},
    **{name: (("sample",), "float64") for name in ("reference_logprob", "reference_logprob_mean")},
}
_COORDINATES: dict[str, tuple[tuple[str, ...], str | None]] = {
    "sample": (("sample",), None),
    "layer": (("layer",), "int64"),
    "head": (("head",), "int64"),
    "segment": (_TOKEN, "int8"),
    "token_box": ((*_TOKEN, "corner"), "float64"),
    **{name: (_TOKEN, "int32") for name in ("view", "row", "col", "image_index")},
    "token_id": (_TOKEN, "int64"),
    "token_text": (_TOKEN, None),
    "n_token": (("sample",), "int64"),
    "layer_kind": (("layer",), None),
    **{name: (("sample",), None) for name in ("dataset", "split", "image_id", "visibility")},
}
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("exact_match", "contains", "token_f1", "anls", "vqa_accuracy"), (0.0, 1.0)),
    **dict.fromkeys(("entropy", "seconds"), (0.0, np.inf)),
    **dict.fromkeys(("reference_logprob", "reference_logprob_mean"), (-np.inf, 0.0)),
    "n_token": (1, np.inf),
}
_ATTRIBUTES = ("model", "revision", "family", "dtype", "prompt", "prompt_order", "benchmark", "split", "versions", "settings_hash")


def fault(dataset: xr.Dataset) -> str | None:
    """What is wrong with a trace, in words; None where nothing is.

    Parameters
    ----------
    dataset
        As `interp.trace` returns it; it may be lazy, and its large arrays stay unread.
    """
    import pandera.xarray as pa  # brings pandas: only who checks a trace should wait for it
    from pandera.config import ValidationDepth, config_context
    from pandera.errors import SchemaErrors

    def options(name: str, dims: tuple[str, ...], dtype: str | None) -> dict[str, Any]:
        low_high = _RANGES.get(name)
        return {
            "dims": dims,
            "dtype": dtype,
            # a search for missing values would read the whole array
            "nullable": True,
            "checks": None if low_high is None else pa.Check.in_range(*low_high, error=f"outside {low_high[0]:g} to {low_high[1]:g}"),
        }

    schema = pa.DatasetSchema(
        data_vars={
            **{name: pa.DataVar(**options(name, *what)) for name, what in _VARIABLES.items()},
            **{name: pa.DataVar(required=False, **options(name, *what)) for name, what in _OPTIONAL.items()},
        },
        coords={name: pa.Coordinate(**options(name, *what)) for name, what in _COORDINATES.items()},
    )
    for name in _RANGES:
        if name in dataset:
            dataset[name].load()  # pandera would take a value that cannot be read for one out of range
    try:
        # by default a data set with one dask array would be checked by its schema only; no check here touches a large array
        with config_context(validation_depth=ValidationDepth.SCHEMA_AND_DATA):
            schema.validate(dataset, lazy=True)
    except SchemaErrors as error:
        first = error.schema_errors[0]
        said = first.check.error if isinstance(first.check, pa.Check) else str(first).splitlines()[0]
        return f"{getattr(first.schema, 'name', None) or 'data set'}: {said}"
    missing = [name for name in _ATTRIBUTES if name not in dataset.attrs]
    return f"attribute {missing[0]!r} is missing" if missing else None
