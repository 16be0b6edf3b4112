"""Fig. 5: what VEA does to one picture, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from experiments.artefacts.context import Context
from experiments.artefacts.interface import Artefact, Result
from experiments.artefacts.layer_maps import typical
from interp import plots
from interp.interventions import evidence_map, gain, highlight

ALPHA = 0.5


def staged(sample: xr.Dataset, profile: object) -> dict[str, xr.DataArray]:
    """The maps (y, x) of each step, by name (paper, Eqs. 1 to 4)."""
    steps = {"1 attention (Eq. 1)": (False, False), "2 without spikes (Eq. 2)": (True, False), "3 smoothed (Eq. 3)": (True, True)}
    maps = {
        name: evidence_map(sample, profile, denoise=denoise, smooth=smooth)  # pyright: ignore[reportArgumentType]
        for name, (denoise, smooth) in steps.items()
    }
    last = maps["3 smoothed (Eq. 3)"]
    maps[f"4 gain (Eq. 4, alpha {ALPHA:g})"] = last.copy(data=gain(last, ALPHA).astype(np.float32))
    return maps


def compute(context: Context) -> Result:
    """The right answer of median AUROC; per stage the mean inside and outside the evidence boxes."""
    sample, place = typical(context)
    picture = context.samples()[place].open_images()[0]
    maps = staged(sample, context.profile())
    inside = _inside(sample, picture.size)
    rows = [{"stage": name, **_levels(stage.values, inside)} for name, stage in maps.items()]
    levels = ", ".join(f"{row['stage']} {row['inside']:.2f} against {row['outside']:.2f}" for row in rows)
    sentence = f"On the picture shown, mean values inside and outside the evidence boxes: {levels} ({context.order}; one sample)."
    figure = plots.method_stages(sample, picture, maps, highlight(picture, maps["3 smoothed (Eq. 3)"], ALPHA))
    stacked = xr.concat(list(maps.values()), dim=xr.DataArray(list(maps), dims="stage", name="stage"), combine_attrs="drop_conflicts")
    data = xr.Dataset({"map": stacked}, attrs={**context.trace().attrs, "sample": str(sample["sample"].item())})
    return Result(pd.DataFrame(rows), figure, data, sentence, apart="The paper's figure is a scheme without numbers.", n=1, intervals="")


def _inside(sample: xr.Dataset, size: tuple[int, int]) -> np.ndarray:
    """(y, x): whether a pixel's centre lies in an evidence box of the first picture."""
    x, y = np.arange(size[0]) + 0.5, np.arange(size[1])[:, None] + 0.5
    inside = np.zeros((size[1], size[0]), dtype=bool)
    marked = zip(sample["evidence_role"].values, sample["evidence_image"].values, sample["evidence_box"].values, strict=True)
    for _, _, (x0, y0, x1, y1) in (each for each in marked if str(each[0]) == "evidence" and each[1] == 0):
        inside |= (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    return inside


def _levels(values: np.ndarray, inside: np.ndarray) -> Mapping[str, float]:
    known = np.isfinite(values)
    return {
        name: float(values[known & part].mean()) if (known & part).any() else float("nan")
        for name, part in (("inside", inside), ("outside", ~inside))
    }


ARTEFACT = Artefact(
    "fig5",
    "Visual evidence augmentation stage by stage (paper, Fig. 5)",
    "What does each step of the method make of the attention on one picture?",
    compute,
)
