"""Another model's trace as the source of maps: one model attributes, another answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import xarray as xr

from interp.analysis import Profile
from interp.benchmarks.sample import Sample
from interp.capture.facts import Asked, covered
from interp.errors import InterpError

_NEEDED = {
    "attention": ("sample", "layer", "head", "token"),
    "token_box": ("sample", "token", "corner"),
    **{name: ("sample", "token") for name in ("view", "row", "col", "image_index")},
    "image_size": ("sample", "image", "axis"),
    "image_sha256": ("sample", "image"),
    "n_token": ("sample",),
    "question": ("sample",),
}
_READ = ("attention", "token_box", "view", "row", "col", "image_index", "image_size")  # of a sample, when its turn comes
_KEPT = ("model", "revision", "family", "dtype", "prompt", "prompt_order", "settings_hash")


class Attribution:
    """A trace of the attributing model, looked up by sample; attention is read for one sample at a time.

    Parameters
    ----------
    trace
        As `interp.trace` or `interp.open_trace` gives it. Its samples may be more than are asked about, and in any order.

    Raises
    ------
    InterpError
        It is no trace, does not say whose it is, or holds two samples of one id.
    """

    def __init__(self, trace: xr.Dataset) -> None:
        _check_trace(trace)
        self.attrs = trace.attrs
        self._read = trace[list(_READ)].drop_vars([name for name in trace.coords if name not in (*_READ, "layer")])
        ids = [str(name) for name in trace["sample"].values]
        self._places = {name: place for place, name in enumerate(ids)}
        if len(self._places) < len(ids):
            twice = next(name for place, name in enumerate(ids) if self._places[name] != place)
            raise InterpError(f"The attribution holds sample {twice!r} more than once; keep one of them (ds.isel(sample=...)).")
        self._questions = [str(text) for text in trace["question"].values]
        self._lengths = trace["n_token"].values.tolist()
        self._sha256 = [tuple(str(digest) for digest in several if digest) for several in trace["image_sha256"].values]

    def check_profile(self, profile: Profile) -> None:
        """Refuse a profile of anything else than the attributing model in the trace's prompt order.

        Raises
        ------
        InterpError
            Names what differs, or a profiled layer that the trace lacks.
        """
        try:
            profile.check(self.attrs, ())
        except InterpError as error:
            raise InterpError(f"The profile must be that of the model which attributes: {error}") from None
        missing = sorted(set(profile.layers) - {int(layer) for layer in self._read["layer"].values})
        if missing:
            raise InterpError(f"The attribution has no layer {missing[0]}, which the profile names; pass the trace with all its layers.")

    def check(self, asked: Asked, sha256: Sequence[str] | None = None) -> None:
        """Refuse a sample that the attributing model was not asked, as far as it is known.

        Parameters
        ----------
        asked
            The sample.
        sha256
            Digests of its pictures; None where they are not opened yet.

        Raises
        ------
        InterpError
            The trace lacks it, or was asked another question or about other pictures.
        """
        place = self._places.get(asked.id)
        if place is None:
            raise InterpError(
                f"Sample {asked.id!r} is not in the attribution (a trace of {self.attrs['model']!r}, {len(self._places)} samples); trace "
                "the attributing model on the whole of this benchmark."
            )
        if self._questions[place] != asked.question:
            raise InterpError(
                f"The attribution was asked {self._questions[place]!r} of sample {asked.id!r}, not {asked.question!r}; trace the "
                "attributing model on this very benchmark."
            )
        if sha256 is not None and self._sha256[place] != tuple(sha256):
            raise InterpError(
                f"The attribution is of another picture of sample {asked.id!r}; trace the attributing model on these very pictures."
            )

    def of(self, sample: Sample) -> xr.Dataset:
        """The trace's own sample, loaded and without padding; `coverage` (token,) is of the regions that `sample` marks."""
        place = self._places[sample.id]
        own = {"sample": place, "token": slice(self._lengths[place]), "image": slice(len(self._sha256[place]))}
        one = self._read.isel(own).load()
        return one.assign(coverage=("token", covered(sample, one["token_box"].values, one["image_index"].values, one["image_size"].values)))

    def identity(self, ids: Sequence[str]) -> dict[str, str]:
        """What tells this attribution from others: the trace's provenance, and a digest of some samples' attention.

        Provenance alone does not tell a trace in half precision, or one under an intervention, from the plain one.

        Parameters
        ----------
        ids
            Of the samples whose attention is read: the first, the middle and the last are enough to notice another run.
        """
        digest = hashlib.sha256()
        for name in ids:
            place = self._places[name]
            rows = self._read["attention"].isel({"sample": place, "token": slice(self._lengths[place])})
            digest.update(np.ascontiguousarray(rows.values).tobytes())
        known = {f"attribution_{name}": str(self.attrs.get(name, "")) for name in _KEPT}
        return {**known, "attribution_digest": digest.hexdigest()[:16]}


def _check_trace(trace: xr.Dataset) -> None:
    if not isinstance(trace, xr.Dataset):
        raise InterpError(f"attribution is a {type(trace).__name__}, not a trace; open a store with interp.open_trace first.")
    for name, dims in _NEEDED.items():
        if name not in trace.variables or trace[name].dims != dims:
            raise InterpError(
                f"The attribution lacks {name!r} ({', '.join(dims)}); pass a trace as interp.trace or interp.open_trace gives it."
            )
    if not trace.attrs.get("model"):
        raise InterpError("The attribution does not say whose it is; pass a trace with its attributes, as interp.trace gives it.")
