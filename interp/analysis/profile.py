"""Visual-grounding layers and heads: those whose attention ranks the evidence best, found on one split and used on another."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from interp.analysis.auroc import OverlapRule, auroc_kernel, evidence_labels, has_contrast, refuse_without_evidence
from interp.analysis.blocks import streamed, without_token_labels
from interp.analysis.bootstrap import mean_interval
from interp.errors import InterpError

_ENOUGH = 0.95  # of the samples of the layer judged on most
_IDENTITY = ("model", "revision", "prompt", "prompt_order", "benchmark", "split")


@dataclass(frozen=True)
class Profile:
    """The visual-grounding layers of one model (paper, section on profiling; Table 4), and its visual-grounding heads.

    `layers`, ascending and zero-based; `auroc`, one mean per layer of the model; `sample_ids` and `image_ids`, what it was fitted on;
    `n_undefined`, how many of the samples had no evidence token and could not count; `identity`, the trace it came from; `interval`, per
    layer the lower and the upper 95 % bound of its mean, bootstrapped over pictures; `heads`, as (layer, head), best first;
    `head_auroc`, per layer one mean per head. A layer or head that cannot reach the picture has a NaN.
    """

    layers: tuple[int, ...]
    auroc: tuple[float, ...]
    sample_ids: tuple[str, ...]
    image_ids: tuple[str, ...]
    fraction: float
    rule: OverlapRule
    n_undefined: int
    identity: dict[str, str]
    interval: tuple[tuple[float, float], ...] = ()
    heads: tuple[tuple[int, int], ...] = ()
    head_auroc: tuple[tuple[float, ...], ...] = ()

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    def check(self, attrs: Mapping[str, Any], image_ids: Iterable[str], *, allow_overlap: bool = False) -> None:
        """Refuse to judge what this profile cannot: another model's trace, another prompt order, or pictures it was fitted on.

        Parameters
        ----------
        attrs
            Provenance of what is judged: at least `model`, `revision` and `prompt_order`.
        image_ids
            Its pictures.
        allow_overlap
            Accept pictures that the profile was fitted on (the caller records it).

        Raises
        ------
        InterpError
            Names what differs and the remedy.
        """
        for key in ("model", "revision", "prompt_order"):
            mine, theirs = self.identity.get(key, ""), str(attrs.get(key, ""))
            if mine != theirs:
                raise InterpError(
                    f"Profile is of {key.replace('_', ' ')} {mine!r}, but this is {theirs!r}; fit a profile on a trace of the same "
                    "model and prompt order."
                )
        shared = sorted(set(self.image_ids) & {str(i) for i in image_ids})
        if shared and not allow_overlap:
            raise InterpError(
                f"Profile was fitted on {len(shared)} of the images it would judge ({shared[0]!r}, ...); fit it on another split, or pass "
                "allow_overlap=True (--allow-overlap), which is recorded."
            )

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read what `save` wrote.

        Raises
        ------
        InterpError
            The file is missing or is not a profile.
        """
        try:
            fields: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(**{name: _frozen(value) for name, value in fields.items()})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InterpError(f"File {str(path)!r} is not a layer profile ({error}); make one with Profile.save.") from error


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def profile_layers(ds: xr.Dataset, fraction: float = 0.1, rule: OverlapRule = "any") -> Profile:
    """The best ``ceil(fraction * n)`` layers by mean AUROC of the head-mean attention (paper, step A), and heads by their own mean AUROC.

    `ds` is a trace; its attention is read once, in blocks.

    A layer with a sliding window may not reach the evidence of every sample, and where it does it has fewer tokens to rank: its mean is
    over an easier part of the samples. So only layers that are judged on at least 95 % as many samples as the layer judged on most are
    chosen from, even if fewer remain than were asked for. The same holds for heads. `Profile.auroc` has the means of all.

    Raises
    ------
    InterpError
        `fraction` is outside (0, 1], or no sample of the trace has an evidence token.
    """
    if not 0 < fraction <= 1:
        raise InterpError(f"Fraction {fraction} is outside (0, 1]; the paper uses 0.1.")

    def compute(block: xr.Dataset) -> xr.Dataset:
        attention, labels = without_token_labels(block["attention"]), evidence_labels(without_token_labels(block["coverage"]), rule)
        tokens = [["token"], ["token"]]
        return xr.Dataset(
            {
                "by_layer": xr.apply_ufunc(auroc_kernel, attention.mean("head"), labels, input_core_dims=tokens),
                "by_head": xr.apply_ufunc(auroc_kernel, attention, labels, input_core_dims=tokens),
                "defined": has_contrast(labels),
            }
        )

    scores = streamed(ds, compute, "attention", "coverage")
    undefined = refuse_without_evidence(scores["defined"])
    by_layer = mean_interval(scores["by_layer"], scores["image_id"])
    by_head = scores["by_head"].mean("sample").transpose("layer", "head").values
    head_counts = scores["by_head"].notnull().sum("sample").transpose("layer", "head").values
    means = by_layer["mean"].values
    layers, heads = scores["layer"].values.tolist(), scores["head"].values.tolist()
    return Profile(
        layers=tuple(sorted(layers[place] for place in _best(means, by_layer["n"].values, fraction))),
        auroc=tuple(means.tolist()),
        sample_ids=tuple(str(i) for i in ds["sample"].values),
        image_ids=tuple(sorted({str(i) for i in ds["image_id"].values})),
        fraction=fraction,
        rule=rule,
        n_undefined=undefined,
        identity={key: str(ds.attrs.get(key, "")) for key in _IDENTITY},
        interval=tuple((float(lower), float(upper)) for lower, upper in by_layer["interval"].transpose("layer", "ci_bound").values),
        heads=tuple(
            (layers[place // len(heads)], heads[place % len(heads)]) for place in _best(by_head.ravel(), head_counts.ravel(), fraction)
        ),
        head_auroc=tuple(tuple(row) for row in by_head.tolist()),
    )


def _best(means: NDArray[np.float64], counts: NDArray[np.integer], fraction: float) -> list[int]:
    """Places of the best ``ceil(fraction * n)``, best first; never of a NaN, nor of a mean over too few samples (`counts`)."""
    known = np.where(counts / counts.max(initial=1) >= _ENOUGH, means, np.nan)
    order = np.argsort(-known, kind="stable")  # NaN comes last
    return order[: min(math.ceil(fraction * len(known)), int((~np.isnan(known)).sum()))].tolist()


def profiled_map(ds: xr.Dataset, profile: Profile) -> xr.DataArray:
    """The mean attention over the profiled layers and their heads (sample, token); paper Eq. 1.

    `ds` is a trace, read in blocks and only at these layers; or one sample of it, which gives (token,). The attribute `layers` names them.
    """
    chosen = ds[["attention"]].sel(layer=list(profile.layers))
    if "sample" not in ds.dims:
        return chosen["attention"].astype(np.float32).mean(["layer", "head"]).assign_attrs(layers=list(profile.layers))
    result = streamed(chosen, lambda block: without_token_labels(block["attention"]).mean(["layer", "head"]), "attention")
    named = result.assign_coords({name: coord for name, coord in chosen.coords.items() if "token" in coord.dims})
    return named.assign_attrs(layers=list(profile.layers))
