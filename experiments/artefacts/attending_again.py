"""Does a highlight change how the model attends, or only its picture? The same question about the picture as it is, highlighted, and with
the highlight in the wrong place, all in VEA's words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import interp
from experiments.artefacts.asking import Altered, key_of
from experiments.artefacts.comparing import Row, paired
from experiments.artefacts.context import Context
from experiments.artefacts.storing import store
from interp.analysis import auroc, profiled_map, rapt
from interp.interventions import evidence_map, highlight, shift

N = 250
SHOWN = ("original", "highlighted", "shifted")
_DIFFERENCES = (("highlighted", "original"), ("shifted", "original"), ("highlighted", "shifted"))
ATTENTION = ("AUROC of the profiled map", "relative attention on the evidence", "relative attention beside the evidence")
CONTENT = ("change of the evidence's features", "norm of the evidence's features", "change of the distractors' features")
CHANGES = (CONTENT[0], CONTENT[2])


def measured(context: Context) -> xr.Dataset:
    """Over (shown, sample): attention in the profiled layers, and what enters the decoder where evidence and distractors are.

    Features are means over a region's tokens; their change is the length of the difference from the original's over the original's length,
    their norm is over the original's. Made once.
    """
    bench = context.samples("judged", N)
    path = context.cache / f"attending-{key_of(_pictures(context, bench, SHOWN[1]), context.order)}.zarr"
    if not path.exists():
        found = {name: _measured(context, _pictures(context, bench, name)) for name in SHOWN}
        whole = xr.concat(list(found.values()), dim=xr.DataArray(list(SHOWN), dims="shown", name="shown"), join="exact")
        store(_relative(whole).drop_attrs(deep=False), path)
    known = xr.open_zarr(path, consolidated=False, chunks=None).load()
    return known.assign_attrs({**context.trace().attrs, "prompt": "vea", "seed": context.seed})


def _pictures(context: Context, bench: Sequence[interp.Sample], shown: str) -> Sequence[interp.Sample]:
    """The samples with their pictures as they are, or highlighted by the attention of the base prompt, or by the same map moved."""
    if shown == "original":
        return bench
    ds, profile = context.trace(), context.profile()

    def change(sample: interp.Sample, place: int) -> interp.Sample:
        one = ds.isel(sample=place).load()
        pictures = []
        for index, picture in enumerate(sample.open_images()):
            lit = evidence_map(one, profile, image_index=index)
            pictures.append(highlight(picture, shift(lit, context.seed + place) if shown == "shifted" else lit))
        return replace(sample, images=tuple(pictures))

    return Altered(bench, change)


def _measured(context: Context, bench: Sequence[interp.Sample]) -> xr.Dataset:
    size = context.settings.batch_size
    ds = interp.trace(context.vlm(), bench, prompt="vea", batch_size=size, answers=False)
    layers = list(context.profile().layers)
    relative = rapt(ds).sel(layer=layers).mean("layer")
    marked = interp.token_features(context.vlm(), bench, batch_size=size)
    roles = marked["region_role"].values.astype(object)
    vectors = {role: np.where((roles == role)[..., None], marked["features"].values, np.nan) for role in ("evidence", "distractor")}
    absent = ds["knob_absent"].values.astype(bool) if "knob_absent" in ds.variables else np.zeros(ds.sizes["sample"], dtype=bool)
    known = {
        ATTENTION[0]: ("sample", auroc(profiled_map(ds, context.profile()), ds["coverage"]).values),
        ATTENTION[1]: ("sample", relative.sel(section="evidence").values),
        ATTENTION[2]: ("sample", relative.sel(section="non-evidence").values),
        **{role: (("sample", "region", "feature"), each) for role, each in vectors.items()},
    }
    coords = {"image_id": ("sample", ds["image_id"].values.astype(object)), "knob_absent": ("sample", absent)}
    return xr.Dataset(known, coords={**coords, "sample": ds["sample"].values.astype(object)})


def _relative(whole: xr.Dataset) -> xr.Dataset:
    """Features as changes from those of the original picture, one number a sample; the mean over its regions of a role."""
    first = whole.sel(shown="original")
    lengths = {role: _length(first[role].values) for role in ("evidence", "distractor")}
    moved = {role: _over_regions(_length((whole[role] - first[role]).values) / lengths[role]) for role in lengths}
    norm = _over_regions(_length(whole["evidence"].values) / lengths["evidence"])
    dims = ("shown", "sample")
    made = {CONTENT[0]: (dims, moved["evidence"]), CONTENT[1]: (dims, norm), CONTENT[2]: (dims, moved["distractor"])}
    return whole.drop_vars(["evidence", "distractor"]).assign(made)


def _length(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.sqrt(np.square(vectors.astype(np.float64)).sum(axis=-1))  # NaN where there is no such region


def _over_regions(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(values)
    return np.divide(np.nansum(values, axis=-1), known.sum(axis=-1), out=np.full(values.shape[:-1], np.nan), where=known.any(axis=-1))


def rows(found: xr.Dataset, seed: int) -> list[Row]:
    """Paired differences of every measure: highlighted and shifted from the original, and highlighted from shifted.

    Changes of features are none in the original by their making, so there they are means, which are not tested.
    """
    pictures = found["image_id"].values
    made: list[Row] = []
    for name in (*ATTENTION, *CONTENT):
        for shown, against in _DIFFERENCES:
            difference = found[name].sel(shown=shown) - found[name].sel(shown=against)
            row: Row = {"of": f"{shown} less {against}", "score": name, **paired(difference, pictures, seed=seed)}
            if name in CHANGES and against == "original":
                row = {"of": shown, "score": name, "mean": row["difference"], **{key: row[key] for key in ("lower", "upper", "n")}}
            made.append(row)
    return made
