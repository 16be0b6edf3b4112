"""What is known of a sample before the model runs: its text, its pictures, and for every prompt token where it comes from.

Light on purpose (no picture, no tensor), so that the facts of a whole benchmark fit into memory while a store is planned.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interp.benchmarks.sample import Region, Sample, image_sha256
from interp.encoding import SEGMENTS, Encoding
from interp.errors import BenchmarkError
from interp.geometry import Visibility, coverage, visibility

TEXT = np.dtypes.StringDType()

_Floats = NDArray[np.floating]
_Ints = NDArray[np.integer]


class Asked(Protocol):
    """What makes a sample the one that was asked: both `Sample` and `Facts` have it."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def dataset(self) -> str: ...  # noqa: D102
    @property
    def split(self) -> str: ...  # noqa: D102
    @property
    def question(self) -> str: ...  # noqa: D102
    @property
    def references(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def regions(self) -> tuple[Region, ...]: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Facts:
    """The static facts of one sample as it is put to one model.

    Parameters
    ----------
    id, image_id, dataset, split, question, references, regions, knobs
        As in `Sample`.
    image_sizes, image_uris, sha256
        Per picture: (width, height) in pixels, where it is, and the digest of its pixels.
    token_ids, token_text, segment, token_boxes, view, row, col, image_index
        Per prompt token, as in `Encoding`.
    coverage
        (token,) share of the token's region that is evidence; NaN where it has none.
    visibility
        What preprocessing leaves of the evidence.
    """

    id: str
    image_id: str
    dataset: str
    split: str
    question: str
    references: tuple[str, ...]
    regions: tuple[Region, ...]
    knobs: Mapping[str, Any]
    image_sizes: tuple[tuple[int, int], ...]
    image_uris: tuple[str, ...]
    sha256: tuple[str, ...]
    token_ids: _Ints
    token_text: NDArray[Any]
    segment: NDArray[np.int8]
    token_boxes: _Floats
    view: _Ints
    row: _Ints
    col: _Ints
    image_index: _Ints
    coverage: _Floats
    visibility: Visibility

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def n_question(self) -> int:
        """How many tokens the question has."""
        return int((self.segment == SEGMENTS.index("question")).sum())

    @classmethod
    def of(
        cls,
        sample: Sample,
        encoding: Encoding,
        sha256: tuple[str, ...] | None = None,
        coverage: _Floats | None = None,
        visibility: Visibility | None = None,
    ) -> Facts:
        """The facts of an encoded sample; what is given is not computed again."""
        return cls(
            id=sample.id,
            image_id=sample.image_id,
            dataset=sample.dataset,
            split=sample.split,
            question=sample.question,
            references=sample.references,
            regions=sample.regions,
            knobs=sample.knobs,
            image_sizes=tuple(image.size for image in encoding.images),
            image_uris=sample.image_uris,
            sha256=tuple(image_sha256(image) for image in encoding.images) if sha256 is None else sha256,
            token_ids=encoding.token_ids,
            token_text=np.array(encoding.token_text, dtype=TEXT),
            segment=encoding.segment,
            token_boxes=encoding.token_boxes,
            view=encoding.view.astype(np.int32),
            row=encoding.row.astype(np.int32),
            col=encoding.col.astype(np.int32),
            image_index=encoding.image_index.astype(np.int32),
            coverage=covered(sample, encoding.token_boxes, encoding.image_index, [image.size for image in encoding.images])
            if coverage is None
            else coverage,
            visibility=_visibility(sample, encoding) if visibility is None else visibility,
        )


def identify(asked: Iterable[Asked]) -> dict[str, str]:
    """What tells one benchmark from another: `benchmark`, `split`, and `samples`, their number and a digest of what they ask.

    The digest is over ids, questions, references and marked regions, in order.

    Raises
    ------
    BenchmarkError
        Two samples share an id.
    """
    digest, ids, datasets, splits = hashlib.sha256(), set[str](), set[str](), set[str]()
    for one in asked:
        if one.id in ids:
            raise BenchmarkError(f"Sample id {one.id!r} occurs more than once in the benchmark; give every sample an id of its own.")
        regions = [[*region.box, region.role, region.text, region.image_index] for region in one.regions]
        digest.update(json.dumps([one.id, one.question, list(one.references), regions]).encode())
        ids.add(one.id)
        datasets.add(one.dataset)
        splits.add(one.split)
    return {
        "benchmark": ", ".join(sorted(datasets)),
        "split": ", ".join(sorted(splits)),
        "samples": f"{len(ids)} samples, {digest.hexdigest()[:16]}",
    }


def covered(sample: Sample, token_boxes: _Floats, image_index: _Ints, image_sizes: Iterable[ArrayLike]) -> _Floats:
    """(token,) Share of each token's region that is evidence of the sample; NaN where the token has no region.

    `token_boxes` (token, corner) in pixels and `image_index` (token,) as in `Encoding`; `image_sizes`, (width, height) of each picture.
    """
    shares = np.full(len(token_boxes), np.nan)
    for index, size in enumerate(image_sizes):
        tokens = image_index == index
        width, height = np.asarray(size).tolist()
        shares[tokens] = coverage(token_boxes[tokens], _evidence(sample, index), (width, height))
    return shares


def _visibility(sample: Sample, encoding: Encoding) -> Visibility:
    found: list[Visibility] = []
    for index, image in enumerate(encoding.images):
        tokens = encoding.image_index == index
        found.append(visibility(_evidence(sample, index), encoding.token_boxes[tokens], encoding.token_scale[tokens], image.size))
    order: Sequence[Visibility] = ("none", "visible", "cut", "too_small", "lost")
    return max(found, key=order.index)


def _evidence(sample: Sample, image_index: int) -> _Floats:
    boxes = [region.box for region in sample.evidence if region.image_index == image_index]
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
