"""How far a sliding layer reaches: what lies beyond is NaN, not zero. A head that cannot see the picture has no opinion on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from interp.vlm import VLM


def mark_unreachable(vlm: VLM, rows: NDArray[np.floating], positions: Sequence[int]) -> None:
    """Put NaN, in place, where the window of a sliding layer does not reach back to.

    A key that some head does attend to is never marked, whatever the configuration says of the window: the mask decides.

    Parameters
    ----------
    rows
        (layer, head, query, key) of one prompt, without padding.
    positions
        Where each query is in the prompt; for tokens of the answer, past its end.
    """
    window = getattr(vlm.hf_model.config.get_text_config(), "sliding_window", None)
    for layer, kind in enumerate(vlm.layer_kinds):
        if kind == "sliding" and window:
            for query, position in enumerate(positions):
                beyond = rows[layer, :, query, : max(position - window + 1, 0)]
                beyond[:, (beyond == 0).all(axis=0)] = np.nan
