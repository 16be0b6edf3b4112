"""Visual-grounding layers: the layers whose attention ranks the evidence best, found on one split and used on another."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from interp.analysis.auroc import OverlapRule, auroc
from interp.errors import InterpError

_IDENTITY = ("model", "revision", "prompt", "prompt_order", "benchmark", "split")


@dataclass(frozen=True)
class Profile:
    """The visual-grounding layers of one model (paper, section on profiling; Table 4).

    `layers`, ascending and zero-based; `auroc`, one mean per layer of the model; `sample_ids` and `image_ids`, what it was fitted on;
    `n_undefined`, how many of the samples had no evidence token and could not count; `identity`, the trace it came from.
    """

    layers: tuple[int, ...]
    auroc: tuple[float, ...]
    sample_ids: tuple[str, ...]
    image_ids: tuple[str, ...]
    fraction: float
    rule: str
    n_undefined: int
    identity: dict[str, str]

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
                "allow_overlap=True, which is recorded."
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
            kept: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
            return cls(**kept)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InterpError(f"File {str(path)!r} is not a layer profile ({error}); make one with Profile.save.") from error


def profile_layers(ds: xr.Dataset, fraction: float = 0.1, rule: OverlapRule = "any") -> Profile:
    """The best ``ceil(fraction * n_layers)`` layers by mean AUROC of the head-mean attention (paper, step A).

    Raises
    ------
    InterpError
        `fraction` is outside (0, 1], or no sample of the trace has an evidence token.
    """
    if not 0 < fraction <= 1:
        raise InterpError(f"Fraction {fraction} is outside (0, 1]; the paper uses 0.1.")
    scores = auroc(ds["attention"].mean("head"), ds["coverage"], rule)
    if scores.notnull().sum() == 0:
        raise InterpError("No sample of this trace has an evidence token, so no layer can be profiled; trace samples with evidence boxes.")
    means = scores.mean("sample").values
    count = math.ceil(fraction * len(means))
    best = np.argsort(-means, kind="stable")[:count]
    return Profile(
        layers=tuple(sorted(int(layer) for layer in best)),
        auroc=tuple(float(mean) for mean in means),
        sample_ids=tuple(str(i) for i in ds["sample"].values),
        image_ids=tuple(sorted({str(i) for i in ds["image_id"].values})),
        fraction=fraction,
        rule=rule,
        n_undefined=int(scores.attrs["n_undefined"]),
        identity={key: str(ds.attrs.get(key, "")) for key in _IDENTITY},
    )


def profiled_map(ds: xr.Dataset, profile: Profile) -> xr.DataArray:
    """The mean attention over the profiled layers and their heads (sample, token); paper Eq. 1."""
    return ds["attention"].sel(layer=list(profile.layers)).mean(["layer", "head"])
