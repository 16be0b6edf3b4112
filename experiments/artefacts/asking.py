"""Questions put otherwise: about altered samples, or by methods of an artefact's own. Each is asked once and kept for all artefacts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

import interp
from experiments.artefacts.context import Context
from interp.errors import ModelError
from interp.methods import Method, trained_forms


class Altered(Sequence[interp.Sample]):
    """Samples with something done to them when they are looked at, so that no more pictures are held than are asked about.

    Parameters
    ----------
    samples
        As they were.
    change
        From a sample and its place to what is asked in its stead; the same each time.
    """

    def __init__(self, samples: Sequence[interp.Sample], change: Callable[[interp.Sample, int], interp.Sample]) -> None:
        self._samples, self._change = samples, change

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            raise TypeError("Altered samples are taken one by one.")
        return self._change(self._samples[index], range(len(self))[index])


def first(answers: xr.Dataset, n: int) -> xr.Dataset:
    """The answers to the first `n` samples."""
    return answers.isel(sample=slice(n))


def require_trained(context: Context, form: str) -> None:
    """Refuse a model whose card lists forms of prompt, and not this one: its answers would be scored as if a method had failed.

    Raises
    ------
    ModelError
        It is such a model.
    """
    known = trained_forms(context.vlm())
    if known is not None and form not in known:
        raise ModelError(f"Not applicable to {context.model!r}: its card lists no training on {form}; name a model that is trained for it.")


def ask(
    context: Context, bench: Sequence[interp.Sample], methods: Sequence[str | Method], *, vlm: interp.VLM | None = None, label: str = ""
) -> xr.Dataset:
    """Answers (method, sample), in the run's prompt order and with its profile; made once.

    Parameters
    ----------
    context
        Whose model answers.
    bench
        What is asked.
    methods
        How; all in one evaluation, so that they share what can be shared.
    vlm
        Another way to put prompts to the same model.
    label
        Which way, for the name of the store.
    """
    asked = [method if isinstance(method, str) else [method.name, method.summary] for method in methods]
    store = context.cache / f"asked-{key_of(bench, asked, label, context.order)}.zarr"
    store.parent.mkdir(parents=True, exist_ok=True)
    return context.evaluated(store, bench, methods, vlm or context.vlm(), context.profile(), settings={"asked": label or "as it is"})


def look(context: Context, bench: Sequence[interp.Sample], label: str) -> xr.Dataset:
    """The trace of altered samples under the base prompt, without answers; made once."""
    store = context.cache / f"looked-{key_of(bench, label, context.order)}.zarr"
    store.parent.mkdir(parents=True, exist_ok=True)
    found = interp.trace(context.vlm(), bench, batch_size=context.settings.batch_size, answers=False, store=store)
    return found.assign_attrs(seed=context.seed)


def key_of(bench: Sequence[interp.Sample], *parts: Any) -> str:
    """Of what is asked, its pictures included as far as first, middle and last tell: other code may alter them otherwise."""
    shown = [bench[k] for k in sorted({0, len(bench) // 2, len(bench) - 1})]
    pixels = hashlib.sha256()
    for sample in shown:
        for picture in sample.open_images():
            pixels.update(np.asarray(picture).tobytes())
    known = [[sample.id, sample.question] for sample in shown]
    return hashlib.sha256(json.dumps([*parts, len(bench), known, pixels.hexdigest()]).encode()).hexdigest()[:12]
