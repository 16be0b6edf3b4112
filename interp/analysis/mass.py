"""How much attention goes where: the share of the last prompt token's attention by segment."""

from __future__ import annotations

import xarray as xr

from interp.analysis.blocks import streamed, without_token_labels
from interp.errors import InterpError


def segment_mass(ds: xr.Dataset, segment: str = "image") -> xr.DataArray:
    """Attention mass on the tokens of one segment, (sample, layer, head), in [0, 1]; 0 where a head cannot reach them.

    Raises
    ------
    InterpError
        The trace knows no such segment.
    """
    meanings = str(ds["segment"].attrs["flag_meanings"]).split()
    if segment not in meanings:
        raise InterpError(f"Segment {segment!r} is unknown; use one of {', '.join(meanings)}.")
    flag = ds["segment"].attrs["flag_values"][meanings.index(segment)]

    def compute(block: xr.Dataset) -> xr.DataArray:
        chosen = (without_token_labels(block["segment"]) == flag).astype("float32")
        return xr.dot(without_token_labels(block["attention"]).fillna(0.0), chosen, dim="token")

    return (
        streamed(ds, compute, "attention", "segment").rename(None).assign_attrs(long_name=f"attention mass on {segment} tokens", units="1")
    )
