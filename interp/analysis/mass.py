"""How much attention goes where: the share of the last prompt token's attention by segment."""

from __future__ import annotations

import xarray as xr

from interp.errors import InterpError


def segment_mass(ds: xr.Dataset, segment: str = "image") -> xr.DataArray:
    """Attention mass on the tokens of one segment, (sample, layer, head), in [0, 1].

    Raises
    ------
    InterpError
        The trace knows no such segment.
    """
    meanings = str(ds["segment"].attrs["flag_meanings"]).split()
    if segment not in meanings:
        raise InterpError(f"Segment {segment!r} is unknown; use one of {', '.join(meanings)}.")
    flag = ds["segment"].attrs["flag_values"][meanings.index(segment)]
    mass = xr.dot(ds["attention"].fillna(0.0), (ds["segment"] == flag).astype("float32"), dim="token")
    return mass.rename(None).assign_attrs(long_name=f"attention mass on {segment} tokens", units="1")
