"""What VEA must be told apart from: a highlight in the wrong place, dimming without a place, and the place a person marked.

All three use VEA's prompt, and the first two its very dimming, sample by sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import xarray as xr

from interp.benchmarks.sample import Role
from interp.interventions import peak_role, shift, uniform
from interp.methods.batch import Batch, Reply
from interp.methods.method import Method

_LANDINGS = (*get_args(Role), "background")  # in this order where a sample has several pictures


def _shifted(batch: Batch) -> Sequence[Reply]:
    moved = [[shift(one, batch.seed(k, image)) for image, one in enumerate(maps)] for k, maps in enumerate(batch.maps)]
    replies = batch.show(moved)
    for reply, maps, sample in zip(replies, moved, batch.samples, strict=True):
        landed = [peak_role(one, [r for r in sample.regions if r.image_index == image]) for image, one in enumerate(maps)]
        reply.numbers["shift_role"] = float(min(_LANDINGS.index(role) for role in landed))
    return replies


def _uniform(batch: Batch) -> Sequence[Reply]:
    return batch.show([[uniform(one) for one in maps] for maps in batch.maps])


def _boxes(batch: Batch) -> Sequence[Reply]:
    # the tokens that the other maps are made of, so that boxes differ from those by their place alone
    tokens = [batch.tokens(k) for k in range(len(batch.samples))]
    painted = batch.maps_of([one["coverage"] for one in tokens])
    shown = []
    for own, maps in zip(tokens, painted, strict=True):
        coverage, image_index = own["coverage"].values, own["image_index"].values
        marked = [bool((coverage[image_index == image] > 0).any()) for image in range(len(maps))]
        # a variant may dim where a map is constant, but a picture without evidence has no place to point away from
        shown.append([one if has else xr.ones_like(one) for one, has in zip(maps, marked, strict=True)])
    return batch.show(shown)


SHIFTED = Method(
    "vea-shifted",
    "VEA with its map moved round the picture's edges by at least a quarter of each side",
    _shifted,
    needs_map=True,
    forms=("vea",),
    records={"shift_role": _LANDINGS},
)
"""Source: none, a control of this package. The map of VEA, with its defaults, rolled by at least a quarter of each side at a seed of the
sample's own (`interp.interventions.shift`): as bright in all and as smooth, but elsewhere. `shift_role` records where its peak fell.

Cost: that of `vea`; both take their map from one prefill.
"""

UNIFORM = Method("vea-uniform", "VEA with a constant map of the same mean", _uniform, needs_map=True, forms=("vea",))
"""Source: none, a control of this package. Every pixel dimmed as much as VEA, with its defaults, dims on average
(`interp.interventions.uniform`): what its dimming does without a place.

Cost: that of `vea`; both take their map from one prefill.
"""

BOXES = Method(
    "vea-boxes", "VEA with the marked evidence for a map; a picture without visible evidence stays as it is", _boxes, forms=("vea",)
)
"""Source: none, a control of this package: what a perfect map would give. Each token's share of marked evidence takes the place of its
attention, and goes through VEA's steps with their defaults.

Cost: one prefill; no attention is read.
"""
