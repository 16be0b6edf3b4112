"""Readable: whether a linear probe can read the answer off the evidence tokens, as they enter the language model.

Where it can and the model still answers wrongly, the picture was not the trouble.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from interp.analysis.bootstrap import mean_interval
from interp.errors import InterpError

_IDENTITY = ("model", "revision")
_Names = NDArray[np.object_]


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted reader of one-word regions.

    Parameters
    ----------
    pipeline
        Standardisation and multinomial logistic regression of region features (region, feature).
    classes
        The words it can say.
    image_ids
        The pictures it was fitted on.
    n
        How many regions that were.
    identity
        The model whose features they are.
    """

    pipeline: Pipeline
    classes: tuple[str, ...]
    image_ids: frozenset[str]
    n: int
    identity: dict[str, str]

    def read(self, features: NDArray[Any]) -> _Names:
        """Words (region,) read off features (region, feature)."""
        return self.pipeline.predict(features).astype(object) if len(features) else np.empty(0, dtype=object)


def fit_probe(
    features: xr.Dataset, seed: int = 0, *, roles: Sequence[str] = ("evidence", "anchor", "distractor"), strength: float = 1.0
) -> Probe:
    """A probe fitted on the regions whose text is one word: whole cards of one digit, and the digits of longer ones.

    Parameters
    ----------
    features
        Of training scenes (`token_features`).
    seed
        Of the solver.
    roles
        Which regions to learn from.
    strength
        Inverse regularisation of the logistic regression (scikit-learn's C).

    Raises
    ------
    InterpError
        The regions show fewer than two different words.
    """
    table, texts, named = _regions(features)
    usable = ~np.isnan(table).any(axis=-1) & _one_word(texts) & np.isin(named, list(roles))
    words = texts[usable]
    classes = sorted(set(words))
    if len(classes) < 2:
        raise InterpError(
            f"The training regions show {len(classes)} different one-word texts, and a probe needs two or more; give features of a "
            "benchmark whose regions carry texts."
        )
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000, random_state=seed))
    pipeline.fit(table[usable], words.astype(str))
    images = features["image_id"].values.astype(object)[usable.any(axis=1)]
    return Probe(pipeline, tuple(classes), frozenset(str(i) for i in images), int(usable.sum()), _identity(features))


def readable(probe: Probe, features: xr.Dataset) -> xr.Dataset:
    """What a probe reads off each sample's evidence, beside what the same probe reads off the distractors.

    A sample's evidence is read part by part where its parts are marked (a card that says ``4 7`` has a region for each digit), as a
    whole where its text is one word, and not at all where neither is a word the probe knows.

    Parameters
    ----------
    probe
        Fitted on other pictures.
    features
        Of the scenes to judge (`token_features`).

    Returns
    -------
    xr.Dataset
        Over `sample`: `readable`, 1 where every part is read right, NaN where undefined (no evidence, none of its tokens kept, no words
        the probe knows); `reading`, what was read; `control`, the chance that the answer is read off the sample's distractors, one drawn
        for each part, NaN without distractors. Over `region_set` (evidence, distractor): `accuracy` with `interval` (ci_bound, bootstrap
        over pictures) and `n`. `advantage` and `advantage_interval`: `readable` less `control` on the samples that have both; a probe
        whose advantage is not above 0 reads something else than the evidence.

    Raises
    ------
    InterpError
        The probe was fitted on some of these pictures, or on another model's features.
    """
    _check(probe, features)
    table, texts, roles = _regions(features)
    shown = np.logical_and.reduce(np.isfinite(table), axis=-1)
    said = np.full(texts.shape, None, dtype=object)
    said[shown] = probe.read(table[shown])
    n = len(texts)
    right, control, reading = np.full(n, np.nan), np.full(n, np.nan), [""] * n
    for k in range(n):
        parts = _parts(texts[k], roles[k] == "evidence", probe.classes)
        if not parts.size or not shown[k, parts].all():
            continue
        right[k] = float((said[k, parts] == texts[k, parts]).all())
        reading[k] = " ".join(said[k, parts])
        others = said[k, shown[k] & (roles[k] == "distractor")]
        if others.size:
            control[k] = np.prod([(others == text).mean() for text in texts[k, parts]])
    sample = {"sample": features["sample"], "image_id": ("sample", features["image_id"].values)}
    result = xr.Dataset(
        {
            "readable": ("sample", right, {"long_name": "the probe reads the evidence right", "units": "1"}),
            "control": ("sample", control, {"long_name": "chance that the probe reads the answer off the distractors", "units": "1"}),
            "reading": ("sample", np.array(reading, dtype=np.dtypes.StringDType()), {"long_name": "what the probe reads"}),
        },
        coords={name: features[name] for name in features.coords if features[name].dims == ("sample",)} | sample,
        attrs={**features.attrs, "n_undefined": int(np.isnan(right).sum()), "probe_regions": probe.n, "probe_classes": len(probe.classes)},
    )
    both = xr.DataArray(np.stack([right, control]), dims=("region_set", "sample"), coords={"region_set": ["evidence", "distractor"]})
    clusters = xr.DataArray(features["image_id"].values, dims="sample", name="image_id")
    summary = mean_interval(both, clusters)
    lead = mean_interval(xr.DataArray(right - control, dims="sample"), clusters)
    result = result.assign(
        accuracy=summary["mean"].assign_attrs(long_name="share of samples whose answer the probe reads", units="1"),
        interval=summary["interval"],
        n=summary["n"],
        advantage=lead["mean"].assign_attrs(long_name="readable less control, samples with both", units="1"),
        advantage_interval=lead["interval"],
    )
    return result


def _regions(features: xr.Dataset) -> tuple[NDArray[np.float32], _Names, _Names]:
    """Features (sample, region, feature), texts and roles (sample, region)."""
    table = features["features"].transpose("sample", "region", "feature").values
    return table, features["region_text"].values.astype(object), features["region_role"].values.astype(object)


def _one_word(texts: _Names) -> NDArray[np.bool_]:
    return np.array([[len(str(text).split()) == 1 for text in row] for row in texts], dtype=bool).reshape(texts.shape)


def _parts(texts: _Names, evidence: NDArray[np.bool_], classes: Sequence[str]) -> NDArray[np.intp]:
    """The evidence regions to read, one for each word of the answer; empty where the marks do not spell it."""
    words = [str(text).split() for text in texts]
    marked = [k for k in np.flatnonzero(evidence) if words[k]]
    single = [k for k in marked if len(words[k]) == 1]
    spelled = sorted(word for k in marked if len(words[k]) > 1 for word in words[k])
    complete = not spelled or spelled == sorted(words[k][0] for k in single)
    known = all(words[k][0] in classes for k in single)
    return np.array(single if complete and known else [], dtype=np.intp)


def _identity(features: xr.Dataset) -> dict[str, str]:
    return {key: str(features.attrs.get(key, "")) for key in _IDENTITY}


def _check(probe: Probe, features: xr.Dataset) -> None:
    if (theirs := _identity(features)) != probe.identity:
        raise InterpError(
            f"Probe is of model {probe.identity['model']!r} ({probe.identity['revision'] or 'no revision'}), but these features are of "
            f"{theirs['model']!r} ({theirs['revision'] or 'no revision'}); fit a probe on the same model's features."
        )
    shared = sorted(probe.image_ids & {str(i) for i in features["image_id"].values})
    if shared:
        raise InterpError(
            f"Probe was fitted on {len(shared)} of the images it would judge ({shared[0]!r}, ...); fit it on scenes of another split."
        )
