"""What of the picture is anchor, distractor or evidence: the share of each visual token's region that a role's boxes cover."""

from __future__ import annotations

import numpy as np
import xarray as xr

from interp.geometry import coverage


def role_coverage(ds: xr.Dataset, role: str) -> xr.DataArray:
    """Share (sample, token) in [0, 1] of each visual token's region inside the union of its picture's boxes of one role.

    Parameters
    ----------
    ds
        A trace: `token_box`, `image_index`, `evidence_box`, `evidence_image`, `evidence_role` and `image_size`.
    role
        ``evidence`` (then this is the trace's own `coverage`), ``anchor`` or ``distractor``.

    Returns
    -------
    xr.DataArray
        NaN off the image, 0 on a picture without such a box.
    """
    boxes, picture = ds["token_box"].values, ds["image_index"].values
    marked, on, roles = ds["evidence_box"].values, ds["evidence_image"].values, ds["evidence_role"].values.astype(object)
    sizes = ds["image_size"].values
    shares = np.where(np.isnan(boxes[..., 0]), np.nan, 0.0)
    for sample, image in sorted({(int(s), int(on[s, k])) for s, k in np.argwhere(roles == role)}):
        union = marked[sample][(roles[sample] == role) & (on[sample] == image)]
        tokens = (picture[sample] == image) & ~np.isnan(boxes[sample, :, 0])
        shares[sample, tokens] = coverage(boxes[sample, tokens], union, (int(sizes[sample, image, 0]), int(sizes[sample, image, 1])))
    return xr.DataArray(shares, dims=("sample", "token"), attrs={"long_name": f"share of the token's region that is {role}", "units": "1"})
