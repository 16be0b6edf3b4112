"""Areas and coverage against a picture painted pixel by pixel; what preprocessing keeps, against small cases by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from interp.geometry import area, coverage, overlap_with_union, visibility

SIDE = 24


@st.composite
def boxes(draw: st.DrawFn, most: int = 6) -> NDArray[np.float64]:
    """Boxes with whole-pixel corners, some of them sticking out of the picture, some empty."""
    corner = st.integers(-4, SIDE + 4)
    drawn = draw(st.lists(st.tuples(corner, corner, corner, corner), max_size=most))
    return np.asarray([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in drawn], dtype=np.float64).reshape(-1, 4)


def painted(marked: NDArray[np.float64], low: int = -8, high: int = SIDE + 8) -> NDArray[np.bool_]:
    canvas = np.zeros((high - low, high - low), dtype=bool)
    for x0, y0, x1, y1 in marked.astype(int) - low:
        canvas[y0:y1, x0:x1] = True
    return canvas


@settings(max_examples=150, deadline=None, derandomize=True)
@given(boxes(), boxes())
def test_overlap_equals_painted_pixels(tokens: NDArray[np.float64], union: NDArray[np.float64]) -> None:
    mask = painted(union)
    expected = [(painted(token[None]) & mask).sum() for token in tokens]
    np.testing.assert_allclose(overlap_with_union(tokens, union), expected, atol=1e-9)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(boxes(), boxes())
def test_coverage_equals_painted_pixels(tokens: NDArray[np.float64], union: NDArray[np.float64]) -> None:
    mask, picture = painted(union), painted(np.array([[0.0, 0, SIDE, SIDE]]))
    got = coverage(tokens, union, (SIDE, SIDE))
    for token, share in zip(tokens, got, strict=True):
        inside = painted(token[None]) & picture
        assert np.isnan(share) if not inside.any() else share == pytest.approx((inside & mask).sum() / inside.sum())


@settings(max_examples=50, deadline=None, derandomize=True)
@given(boxes(), boxes())
def test_coverage_grows_with_the_evidence_and_ignores_repeats(tokens: NDArray[np.float64], union: NDArray[np.float64]) -> None:
    size = (SIDE, SIDE)
    some, twice, all_ = (coverage(tokens, u, size) for u in (union[:2], np.concatenate([union[:2], union[:2]]), union))
    np.testing.assert_allclose(some, twice)
    real = ~np.isnan(some)
    assert (some[real] <= all_[real] + 1e-12).all()
    assert ((all_[real] >= 0) & (all_[real] <= 1)).all()


def test_a_token_without_region_has_no_coverage() -> None:
    nowhere = np.full((1, 4), np.nan)
    assert np.isnan(coverage(nowhere, [[0, 0, 5, 5]], (9, 9))).all()
    assert np.isnan(coverage(nowhere, [], (9, 9))).all()
    assert area([[0, 0, 2, 3], [4, 4, 4, 9]]).tolist() == [6, 0]


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        ([], "none"),
        ([(30, 10, 60, 40)], "visible"),
        ([(10, 10, 60, 40)], "cut"),
        ([(0, 10, 20, 40)], "lost"),
        ([(40, 10, 46, 40)], "too_small"),
        ([(20, 10, 28, 40)], "too_small"),
        ([(30, 10, 60, 40), (0, 0, 9, 9)], "lost"),
        ([(30, 10, 60, 40), (40, 10, 46, 40)], "too_small"),
    ],
)
def test_visibility(evidence: list[tuple[float, ...]], expected: str) -> None:
    # a picture of 100 x 50 of which the columns 25 to 75 are seen, in two tokens, at its own size
    regions, scale = [(25, 0, 50, 50), (50, 0, 75, 50), (np.nan,) * 4], [(1, 1), (1, 1), (np.nan, np.nan)]
    assert visibility(evidence, regions, scale, (100, 50)) == expected


def test_a_sharper_view_makes_evidence_large_enough() -> None:
    evidence = [(10, 10, 16, 16)]
    whole = [(0, 0, 50, 50)]
    assert visibility(evidence, whole, [(1, 1)], (50, 50)) == "too_small"
    assert visibility(evidence, whole * 2, [(1, 1), (2, 2)], (50, 50)) == "visible"
