"""Are these the pictures that a store was planned with? Its identity is of ids and texts, for which no picture must be opened."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from interp.benchmarks.sample import Sample, image_sha256
from interp.capture.store import Store
from interp.errors import StoreError


def digests(images: Sequence[Image.Image]) -> tuple[str, ...]:
    """The digest of each picture's pixels."""
    return tuple(image_sha256(image) for image in images)


class Pictures:
    """The pictures' digests that a store was planned with.

    Parameters
    ----------
    store
        Its kind's own group holds `image_sha256` (sample, image).
    """

    def __init__(self, store: Store) -> None:
        known = store.tree()[store.kind].to_dataset()["image_sha256"].values.astype(object)
        self._path = store.path
        self._known = [tuple(digest for digest in several if digest) for several in known]

    def check(self, index: int, sample_id: str, found: tuple[str, ...]) -> None:
        """Refuse a sample whose pictures changed.

        Parameters
        ----------
        index
            Its position along `sample`.
        sample_id
            Its name, for the error.
        found
            Its pictures' digests now.

        Raises
        ------
        StoreError
            They are not those of the plan.
        """
        if found != self._known[index]:
            raise StoreError(
                f"Store {str(self._path)!r} was begun with another picture of sample {sample_id!r}; use the pictures it was begun with, "
                "or choose another path."
            )

    def check_some(self, bench: Sequence[Sample]) -> None:
        """Refuse a benchmark whose first, middle or last sample has other pictures: to open them all would cost too much.

        Raises
        ------
        StoreError
            As in :meth:`check`.
        """
        for index in sorted({0, len(bench) // 2, len(bench) - 1}):
            sample = bench[index]
            self.check(index, sample.id, digests(sample.open_images()))
