"""How far the answer gets: linear probes on the evidence tokens and on the last prompt token, layer by layer.

A probe that reads the evidence tokens says that the answer is there. One that reads the last token may only foretell what the model is
about to say, so where the two disagree the evidence decides. Each accuracy stands beside that of a control task, the same probe on labels
that were shuffled between scenes, and beside the same probe on the distractors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from interp.analysis.bootstrap import mean_interval
from interp.errors import InterpError

SITES = ("evidence", "last")

_Objects = NDArray[np.object_]
_Floats = NDArray[np.floating]
_TEXT = np.dtypes.StringDType()


class _Lot(NamedTuple):
    """Examples of one site: features (example, layer, feature), their words and pictures, and which sample each is of."""

    table: _Floats
    words: _Objects
    images: _Objects
    sample: NDArray[np.intp]


def probe_layers(
    training: xr.Dataset,
    features: xr.Dataset,
    *,
    n_folds: int = 3,
    strength: float = 0.1,
    max_iter: int = 300,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> xr.Dataset:
    """What linear probes read of the answer, at every depth.

    Standardised multinomial logistic regression. The probe of the evidence is fitted on the mean token vectors of regions that show one
    word, evidence and distractors alike; the probe of the last token on the last prompt position's residual stream, to say the first word
    of the asked region.

    Parameters
    ----------
    training
        ``token_features(..., layers=True)`` of scenes in which nothing but the marks foretells the answer.
    features
        The same of the scenes to judge, on other pictures.
    n_folds
        Folds of the cross-validation on `training`, whole pictures at a time.
    strength, max_iter
        Of the regression (scikit-learn's C).
    level, n_resamples, seed
        Of the intervals, bootstrapped over pictures, and of the shuffled labels.

    Returns
    -------
    xr.Dataset
        - `cv_accuracy` (site, layer), cross-validated by scene on `training`, `cv_control`, the same with labels shuffled between scenes,
          and `selectivity`, their difference; `best_layer` (site,), where it is largest.
        - `right` (site, sample, layer): 1 where the probe, fitted on all of `training`, reads the first word of the asked region; NaN where
          that is no word it knows, or no token shows it. `reading` (site, sample), what it reads at its best layer.
        - `control` (site, sample, layer): the chance that it reads the same word off one of the sample's distractors (evidence), or reads
          the word of a distractor that is not the answer (last token).
        - `accuracy`, `accuracy_interval` (ci_bound), `control_accuracy` (site, layer).

    Raises
    ------
    InterpError
        The two are of different models or share pictures, hold no dimension `layer`, or too few different words or pictures.
    """
    for one in (training, features):
        if "layer" not in one.dims:
            raise InterpError("Features hold one depth only; make them with token_features(..., layers=True).")
    for key in ("model", "revision"):
        if (one := str(training.attrs.get(key, ""))) != (other := str(features.attrs.get(key, ""))):
            raise InterpError(f"Training features are of {key} {one!r}, the others of {other!r}; take both from the same model.")
    shared = sorted({str(i) for i in training["image_id"].values} & {str(i) for i in features["image_id"].values})
    if shared:
        raise InterpError(f"Probes would judge {len(shared)} of the pictures they are fitted on ({shared[0]!r}, ...); use another split.")
    layers = features["layer"].values
    found = [_site(site, training, features, n_folds, (strength, max_iter), seed) for site in SITES]
    best = np.array([int(np.argmax(one["cv_accuracy"] - one["cv_control"])) for one in found])
    coords = {
        "site": list(SITES),
        "layer": layers,
        "sample": features["sample"],
        **{name: ("sample", features[name].values) for name in ("image_id", "dataset", "split")},
    }
    per_layer, per_sample = ("site", "layer"), ("site", "sample", "layer")
    texts = {
        "cv_accuracy": (per_layer, "accuracy, cross-validated by scene"),
        "cv_control": (per_layer, "the same, labels shuffled between scenes"),
        "right": (per_sample, "the probe reads the answer's first word"),
        "control": (per_sample, "chance that it reads that off a distractor"),
    }
    result = xr.Dataset(
        {name: (dims, np.stack([one[name] for one in found]), {"long_name": text, "units": "1"}) for name, (dims, text) in texts.items()},
        coords=coords,
        attrs={**features.attrs, "n_training": training.sizes["sample"], "training_split": training.attrs.get("split", ""), "seed": seed},
    )
    readings = np.stack([one["reading"][:, at] for one, at in zip(found, best, strict=True)])
    spread = mean_interval(result["right"], result["image_id"], level=level, n_resamples=n_resamples, seed=seed)
    return result.assign(
        selectivity=(result["cv_accuracy"] - result["cv_control"]).assign_attrs(long_name="accuracy less the control task's", units="1"),
        best_layer=("site", layers[best], {"long_name": "layers passed where the probe is most selective"}),
        reading=(("site", "sample"), readings.astype(_TEXT), {"long_name": "what the probe reads at its best layer"}),
        accuracy=spread["mean"].assign_attrs(long_name="share of answers read", units="1"),
        accuracy_interval=spread["interval"],
        control_accuracy=result["control"].mean("sample").assign_attrs(long_name="mean control", units="1"),
    )


def _site(
    site: str, training: xr.Dataset, features: xr.Dataset, n_folds: int, how: tuple[float, int], seed: int
) -> dict[str, NDArray[Any]]:
    lot = _regions(training, ("evidence", "distractor")) if site == "evidence" else _lasts(training)
    known = sorted(set(lot.words))
    if len(known) < 2 or len(set(lot.images)) < n_folds:
        raise InterpError(
            f"Training scenes show {len(known)} different words in {len(set(lot.images))} pictures; probes of {n_folds} folds need two "
            "words or more, and as many pictures as folds."
        )
    words = np.array([known.index(word) for word in lot.words])
    shuffled = _shuffled(words, lot.images, seed)
    n_layers = lot.table.shape[1]
    accuracy, control = np.zeros(n_layers), np.zeros(n_layers)
    n = features.sizes["sample"]
    right, chance = np.full((n, n_layers), np.nan), np.full((n, n_layers), np.nan)
    reading = np.full((n, n_layers), "", dtype=object)
    asked = _asked(features)
    judged = _regions(features, ("evidence",), first=True) if site == "evidence" else _lasts(features)
    others = _regions(features, ("distractor",))
    for layer in range(n_layers):
        table = lot.table[:, layer]
        accuracy[layer] = _cross_validated(table, words, lot.images, n_folds, how)
        control[layer] = _cross_validated(table, shuffled, lot.images, n_folds, how)
        probe = _pipeline(how).fit(table, words)
        if not len(judged.table):
            continue
        said = np.array(known, dtype=object)[probe.predict(judged.table[:, layer])]
        answerable = np.isin(asked[judged.sample], known)
        right[judged.sample, layer] = np.where(answerable, said == asked[judged.sample], np.nan)
        reading[judged.sample, layer] = said
        beside = np.array(known, dtype=object)[probe.predict(others.table[:, layer])] if site == "evidence" and len(others.table) else said
        for k, member in _members(others.sample):
            if asked[k] not in known:
                continue
            if site == "evidence":
                chance[k, layer] = float((beside[member] == asked[k]).mean())
            elif (wrong := [word for word in others.words[member] if word != asked[k]]) and (
                own := np.flatnonzero(judged.sample == k)
            ).size:
                chance[k, layer] = float(np.mean([said[own[0]] == word for word in wrong]))
    return {"cv_accuracy": accuracy, "cv_control": control, "right": right, "control": chance, "reading": reading}


def _pipeline(how: tuple[float, int]) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=how[0], max_iter=how[1], tol=1e-3))


def _cross_validated(table: _Floats, words: NDArray[np.intp], images: _Objects, n_folds: int, how: tuple[float, int]) -> float:
    hits = np.zeros(len(words))
    for fit, judge in GroupKFold(n_folds).split(table, words, images):
        hits[judge] = _pipeline(how).fit(table[fit], words[fit]).predict(table[judge]) == words[judge]
    return float(hits.mean())


def _shuffled(words: NDArray[np.intp], images: _Objects, seed: int) -> NDArray[np.intp]:
    """The control task: every picture gets the words of another, so that how often each word occurs stays the same."""
    order = np.argsort(images, kind="stable")
    shift = int(np.random.default_rng(seed).integers(1, max(len(order), 2)))
    control = np.empty_like(words)
    control[order] = np.roll(words[order], shift)
    return control


def _members(sample: NDArray[np.intp]) -> Iterator[tuple[int, NDArray[np.intp]]]:
    for k in np.unique(sample):
        yield int(k), np.flatnonzero(sample == k)


def _names(array: xr.DataArray) -> _Objects:
    return array.values.astype(object)


def _asked(features: xr.Dataset) -> _Objects:
    """(sample,) The first word of the first evidence region; empty where none is marked."""
    texts, roles = _names(features["region_text"]), _names(features["region_role"])
    first = []
    for marked, named in zip(texts, roles, strict=True):
        words = (str(text).split() for text, role in zip(marked, named, strict=True) if role == "evidence")
        first.append(next((found[0] for found in words if found), ""))
    return np.array(first, dtype=object)


def _regions(features: xr.Dataset, roles: tuple[str, ...], first: bool = False) -> _Lot:
    """Regions of these roles that show one word and reach a token; `first`: of each sample the first such region alone."""
    table = features["features"].transpose("sample", "region", "layer", "feature").values
    texts, named = _names(features["region_text"]), _names(features["region_role"])
    single = np.array([[len(str(text).split()) == 1 for text in row] for row in texts], dtype=bool).reshape(texts.shape)
    usable = single & np.isin(named, list(roles)) & np.isfinite(table).all((-1, -2))
    if first:
        usable &= np.cumsum(usable, axis=1) == 1
    sample, region = np.nonzero(usable)
    images = _names(features["image_id"])[sample]
    return _Lot(table[sample, region], np.array([str(t) for t in texts[sample, region]], dtype=object), images, sample)


def _lasts(features: xr.Dataset) -> _Lot:
    """The last token of every sample that asks for a word."""
    asked = _asked(features)
    sample = np.flatnonzero(asked != "")
    table = features["last"].transpose("sample", "layer", "feature").values[sample]
    return _Lot(table, asked[sample], _names(features["image_id"])[sample], sample)
