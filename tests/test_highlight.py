"""Evidence maps and highlights, against loops, small cases by hand, scikit-learn and scipy."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

import interp
from interp.errors import InterpError
from interp.interventions import evidence_map, gain, highlight, peak_role, shift, uniform
from interp.interventions.spikes import replace_spikes
from interp.testing import traces

Floats = NDArray[np.float64]


def sample_of(size: tuple[int, int], *views: tuple[tuple[int, int], tuple[float, float, float, float]]) -> xr.Dataset:
    """One sample without attention: each view is a grid (rows, columns) laid over a box of the picture."""
    boxes, places = [], []
    for view, ((rows, cols), (x0, y0, x1, y1)) in enumerate(views):
        for row, col in product(range(rows), range(cols)):
            across, down = (x1 - x0) / cols, (y1 - y0) / rows
            boxes.append((x0 + col * across, y0 + row * down, x0 + (col + 1) * across, y0 + (row + 1) * down))
            places.append((view, row, col))
    view, row, col = np.array(places).T
    return xr.Dataset(
        {"image_size": (("image", "axis"), np.array([size]))},
        coords={
            "token_box": (("token", "corner"), np.array(boxes)),
            "view": ("token", view),
            "row": ("token", row),
            "col": ("token", col),
            "image_index": ("token", np.zeros_like(view)),
        },
    )


def whole(size: tuple[int, int], rows: int, cols: int) -> xr.Dataset:
    return sample_of(size, ((rows, cols), (0, 0, *size)))


def tokens(values: Any) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, dtype=np.float64).ravel(), dims="token")


def stretched(values: NDArray[Any]) -> NDArray[Any]:
    return (values - np.nanmin(values)) / (np.nanmax(values) - np.nanmin(values))


def spikes_by_loop(grid: Floats, lam: float) -> Floats:
    """Eq. 2 cell by cell, then every pair of touching cells."""

    def near(cell: tuple[int, ...]) -> set[tuple[int, ...]]:
        places = product(*(range(max(k - 1, 0), min(k + 2, n)) for k, n in zip(cell, grid.shape, strict=True)))
        return {place for place in places if place != cell and not math.isnan(grid[place])}

    result = grid.copy()
    for cell in product(*map(range, grid.shape)):
        others = near(cell)
        if others and grid[cell] > lam * max(grid[p] for p in others):
            result[cell] = np.mean([grid[p] for p in others])
        for partner in others:
            ring = (others | near(partner)) - {cell, partner}
            if ring and min(grid[cell], grid[partner]) > lam * max(grid[p] for p in ring):
                mine = others - {partner}
                result[cell] = np.mean([grid[p] for p in mine]) if mine else max(grid[p] for p in ring)
    return result


# ------------------------------------------------------------------------------------------------------------ spikes


@pytest.mark.parametrize("shape", [(5, 6), (2, 2), (2, 5), (1, 4), (3, 1)])
def test_a_spike_anywhere_is_replaced_as_by_the_loop(shape: tuple[int, int]) -> None:
    calm = np.random.default_rng(0).uniform(1, 2, shape)
    for place in product(*map(range, shape)):
        grid = calm.copy()
        grid[place] = 1000
        got = replace_spikes(grid, 10.0)
        np.testing.assert_allclose(got, spikes_by_loop(grid, 10.0))
        assert got[place] < 2


calm_with_spikes = st.sampled_from([1.0] * 16 + [1.5, 2.0, 0.0, 14.0, 21.0, 300.0, np.nan])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.one_of(*(arrays(np.float64, shape, elements=calm_with_spikes) for shape in ((4, 5), (2, 3), (1, 5)))))
def test_spikes_of_one_and_two_cells_are_those_of_the_loop(grid: Floats) -> None:
    np.testing.assert_allclose(replace_spikes(grid, 10.0), spikes_by_loop(grid, 10.0))


@pytest.mark.parametrize("second", [(0, 1), (1, 0), (1, 1)])
def test_two_touching_sinks_are_replaced_and_three_high_cells_are_kept(second: tuple[int, int]) -> None:
    grid = np.ones((4, 4))
    grid[0, 0], grid[second] = 500, 900
    np.testing.assert_array_equal(replace_spikes(grid, 10.0), np.ones((4, 4)))
    grid[2, 1] = 700
    if second != (0, 1):  # then the third touches
        np.testing.assert_array_equal(replace_spikes(grid, 10.0), grid)


def test_what_has_nothing_around_it_is_kept() -> None:
    for grid in ([[5.0]], [[80.0, 90.0]], [[5.0, np.nan], [np.nan, np.nan]]):
        np.testing.assert_array_equal(replace_spikes(np.array(grid), 10.0), grid)
    np.testing.assert_array_equal(replace_spikes(np.array([[5.0, 900.0]]), 10.0), [[5.0, 5.0]])
    np.testing.assert_array_equal(replace_spikes(np.array([[80.0, 90.0, 1.0, 2.0]]), 10.0), [[1.0, 1.0, 1.0, 2.0]])


@pytest.mark.parametrize(("place", "authors_see_it"), [((3, 3), True), ((0, 0), False), ((0, 3), False), ((7, 7), False)])
def test_the_authors_miss_spikes_on_the_border(place: tuple[int, int], authors_see_it: bool) -> None:
    grid = np.random.default_rng(1).uniform(1, 2, (8, 8))
    grid[place] = 1000
    one = whole((64, 64), 8, 8)
    ours, theirs = (evidence_map(one, tokens(grid), smooth=False, variant=v).values for v in ("interp", "authors"))
    assert ours.mean() > 0.2, "the calm cells fill the range"
    assert (theirs.mean() > 0.2) == authors_see_it


# ---------------------------------------------------------------------------------------------------------- the map


def test_profiled_attention_is_averaged_over_layers_and_heads_and_painted() -> None:
    ds = traces()
    profile = interp.profile_layers(ds, 0.3)
    assert len(profile.layers) == 2
    one = ds.isel(sample=2)
    got = evidence_map(one, profile, denoise=False, smooth=False)
    width, height = (int(v) for v in one["image_size"].values[0])
    assert got.dims == ("y", "x") and got.shape == (height, width)
    image = one["segment"].values == 1
    mean = one["attention"].values[list(profile.layers)].astype(float).mean((0, 1))[image].reshape(6, 6)
    ys, xs = ((np.arange(n) + 0.5) / n * 6 for n in (height, width))  # pixels' centres, in cells
    in_one = tuple(np.flatnonzero(np.abs(v - v.round()) > 3 / n) for v, n in ((ys, height), (xs, width)))  # pixels that no edge cuts
    assert min(map(len, in_one)) > 30
    expected = stretched(mean)[ys.astype(int)[in_one[0]]][:, xs.astype(int)[in_one[1]]]
    np.testing.assert_allclose(got.values[np.ix_(*in_one)], expected, atol=1e-6)
    assert got.attrs["sigma_px"] == 0 and got.attrs["model"] == ds.attrs["model"]
    assert str(list(profile.layers)) in got.attrs["steps"]
    assert evidence_map(one, profile).attrs["sigma_px"] == 0.5 * min(width, height)


def test_heads_that_cannot_reach_the_picture_do_not_count() -> None:
    ds = traces()
    profile = interp.profile_layers(ds, 0.3)
    one = ds.isel(sample=0).copy(deep=True)
    blind = one.copy(deep=True)
    blind["attention"][profile.layers[0]] = np.nan
    only = interp.analysis.Profile(**{**vars(profile), "layers": profile.layers[1:]})
    xr.testing.assert_allclose(evidence_map(blind, profile), evidence_map(one, only))
    one["attention"][:] = np.nan
    with pytest.raises(InterpError, match="No token with a value stands for a part of image 0"):
        evidence_map(one, profile)


@pytest.mark.parametrize("centre", [0.25, 0.4, 0.5])
@pytest.mark.parametrize("sigma", [0.05, 0.5, 1.0])
def test_the_peak_stays_where_the_model_looked(centre: float, sigma: float) -> None:
    side, cells = 192, 24
    grid = np.zeros((cells, cells))
    at = slice(int(centre * cells) - 1, int(centre * cells) + 2)
    grid[at, at] = 1
    hot = np.kron(grid, np.ones((side // cells, side // cells)))
    one = whole((side, side), cells, cells)
    got = evidence_map(one, tokens(grid), sigma=sigma).values
    assert hot[np.unravel_index(got.argmax(), got.shape)] == 1
    assert roc_auc_score(hot.ravel(), got.ravel()) > 0.999
    theirs = evidence_map(one, tokens(grid), sigma=sigma, variant="authors").values
    if sigma == 0.5 and centre < 0.5:
        assert np.unravel_index(theirs.argmax(), theirs.shape) == (0, 0)
        assert roc_auc_score(hot.ravel(), theirs.ravel()) < 0.9
    if sigma == 0.05:
        assert roc_auc_score(hot.ravel(), theirs.ravel()) > 0.999


def test_the_blur_is_a_gaussian_of_the_painted_map_with_nothing_outside() -> None:
    """Two views that overlap: a thumbnail of the whole picture and a tile of its left half. Against scipy, on pixels."""
    rng = np.random.default_rng(3)
    one = sample_of((60, 48), ((4, 5), (0, 0, 60, 48)), ((6, 5), (0, 0, 30, 48)))
    thumbnail, tile = rng.random((4, 5)), rng.random((6, 5))
    painted = np.kron(thumbnail, np.ones((12, 12)))
    painted[:, :30] = (painted[:, :30] + np.kron(tile, np.ones((8, 6)))) / 2
    values = tokens([*thumbnail.ravel(), *tile.ravel()])
    np.testing.assert_allclose(evidence_map(one, values, denoise=False, smooth=False), stretched(painted), atol=1e-6)
    expected = stretched(gaussian_filter(painted - float(values.min()), 0.125 * 48, mode="constant", truncate=8))
    np.testing.assert_allclose(evidence_map(one, values, denoise=False, sigma=0.125), expected, atol=5e-3)


def test_spikes_are_looked_for_inside_each_view() -> None:
    calm = np.random.default_rng(4).uniform(1, 2, (2, 3, 3))
    one = sample_of((30, 30), ((3, 3), (0, 0, 30, 30)), ((3, 3), (0, 0, 15, 15)))
    calm[1, 0, 0] = 300  # beside nothing of the first view, although the tokens are neighbours in the prompt
    got = evidence_map(one, tokens(calm), smooth=False)
    mended = np.stack([calm[0], spikes_by_loop(calm[1], 10.0)])
    xr.testing.assert_allclose(got, evidence_map(one, tokens(mended), denoise=False, smooth=False))


def test_what_no_token_stands_for_is_nan_and_keeps_its_gain() -> None:
    one = sample_of((40, 20), ((4, 4), (10, 0, 30, 20)))
    for variant in ("interp", "authors"):
        got = evidence_map(one, tokens(np.arange(16)), variant=variant)
        seen = np.zeros((20, 40), dtype=bool)
        seen[:, 10:30] = True
        np.testing.assert_array_equal(got.notnull(), seen)
        assert float(got.min()) == 0 and float(got.max()) == 1
        picture = Image.new("RGB", (40, 20), (200, 100, 50))
        shown = np.asarray(highlight(picture, got, 0.25, variant))
        assert (shown[~seen] == (200, 100, 50)).all()
        assert shown[seen].min() < 50


@pytest.mark.parametrize(("variant", "level"), [("interp", 1), ("authors", 0)])
@pytest.mark.parametrize("smooth", [True, False])
def test_a_constant_map_dims_nothing_and_the_authors_everything(variant: str, level: int, smooth: bool) -> None:
    one = whole((24, 36), 6, 6)
    assert (evidence_map(one, tokens(np.full(36, 0.02)), variant=variant, smooth=smooth) == level).all()
    noise = np.random.default_rng(0).uniform(-1e-9, 1e-9, 36)  # what single precision leaves of a constant
    assert (evidence_map(one, tokens(0.02 + noise), variant=variant, smooth=smooth) == level).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    arrays(np.float64, (3, 4), elements=st.floats(0, 1)),
    st.floats(0.1, 10),
    st.floats(0, 3),
    st.floats(0, 1.5),
    st.sampled_from(["interp", "authors"]),
)
def test_maps_fill_their_range_and_do_not_know_scale_or_offset(
    grid: Floats, scale: float, offset: float, sigma: float, variant: str
) -> None:
    one = whole((20, 15), 3, 4)
    got = evidence_map(one, tokens(grid), denoise=False, sigma=sigma, smooth=sigma > 0, variant=variant)
    assert got.dtype == np.float32 and got.shape == (15, 20)
    assert float(got.min()) >= 0 and float(got.max()) <= 1
    if np.ptp(grid) > 1e-3 and (variant == "interp" or sigma < 0.3):
        assert (float(got.min()), float(got.max())) == (0, 1)
        other = evidence_map(one, tokens(scale * grid + offset), denoise=False, sigma=sigma, smooth=sigma > 0, variant=variant)
        np.testing.assert_allclose(other, got, atol=1e-4)


# ------------------------------------------------------------------------------------------------------- the picture


def test_a_highlight_by_hand() -> None:
    picture = Image.fromarray(np.array([[[200, 101, 3], [255, 0, 1]], [[7, 8, 9], [100, 100, 100]]], dtype=np.uint8))
    weights = np.array([[0.0, 1.0], [np.nan, 0.5]])
    expected = [[[100, 50.5, 1.5], [255, 0, 1]], [[7, 8, 9], [75, 75, 75]]]
    assert np.abs(np.asarray(highlight(picture, weights)) - expected).max() <= 0.5
    np.testing.assert_array_equal(np.asarray(highlight(picture, weights, variant="authors")), np.floor(expected))
    np.testing.assert_allclose(gain(weights, 0.2), [[0.2, 1], [1, 0.6]])


def test_rounding_keeps_levels_and_truncation_loses_them() -> None:
    levels = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2))
    weights = np.full((1, 256), 0.999)
    ours, theirs = (np.asarray(highlight(levels, weights, variant=v)).astype(int) for v in ("interp", "authors"))
    assert (ours == np.asarray(levels)).all()
    assert (theirs == np.asarray(levels) - 1)[:, 1:].all()


def test_alpha_one_gives_the_very_picture() -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8))
    weights = evidence_map(whole((20, 15), 3, 4), tokens(rng.random(12)))
    for variant in ("interp", "authors"):
        assert highlight(picture, weights, 1.0, variant).tobytes() == picture.tobytes()
    assert highlight(picture, weights, 0.999).tobytes() != highlight(picture, weights, 0.5).tobytes()


shares = arrays(np.float64, (3, 4), elements=st.one_of(st.floats(0, 1), st.just(np.nan)))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(arrays(np.uint8, (3, 4, 3)), shares, shares, st.floats(0, 1), st.floats(0, 1))
def test_more_map_or_more_alpha_is_never_darker(pixels: NDArray[np.uint8], first: Floats, second: Floats, one: float, two: float) -> None:
    picture = Image.fromarray(pixels)
    low, high = np.fmin(first, second), np.maximum(first, second)  # NaN is brightest
    dim = np.asarray(highlight(picture, low, min(one, two)))
    assert (dim <= np.asarray(highlight(picture, high, min(one, two)))).all()
    assert (dim <= np.asarray(highlight(picture, low, max(one, two)))).all()
    assert (dim <= pixels).all() and (dim >= np.floor(min(one, two) * pixels.astype(float))).all()


# -------------------------------------------------------------------------------------------------------- controls


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(2, 33), st.integers(2, 33), st.integers(0, 2**64 - 1))
def test_a_shifted_map_has_the_same_values_a_quarter_away(width: int, height: int, seed: int) -> None:
    values = np.arange(height * width, dtype=np.float64).reshape(height, width) / (height * width)
    map_ = xr.DataArray(values, dims=("y", "x"))
    moved = shift(map_, seed)
    np.testing.assert_array_equal(np.sort(moved.values.ravel()), np.sort(values.ravel()))
    (y, x), (my, mx) = (np.argwhere(m == 0)[0] for m in (values, moved.values))
    for side, step in ((height, my - y), (width, mx - x)):
        assert min(step % side, -step % side) >= side / 4
    again = shift(map_, seed)
    xr.testing.assert_identical(moved, again)


def test_shifts_differ_and_stay_on_what_the_model_sees() -> None:
    map_ = evidence_map(sample_of((40, 20), ((4, 4), (10, 0, 30, 20))), tokens(np.arange(16)))
    shifts = {(m.attrs["shift_y"], m.attrs["shift_x"]) for m in (shift(map_, seed) for seed in range(50))}
    assert len(shifts) > 20
    assert {step for step, _ in shifts} <= set(range(5, 16)) and {step for _, step in shifts} <= set(range(5, 16))
    moved = shift(map_, 1)
    np.testing.assert_array_equal(moved.isnull(), map_.isnull())
    np.testing.assert_array_equal(np.sort(moved.values.ravel()), np.sort(map_.values.ravel()))
    with pytest.raises(InterpError, match="covers 1 x 3 pixels cannot be shifted"):
        shift(xr.DataArray(np.zeros((3, 1)), dims=("y", "x")), 0)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_uniform_map_dims_as_much(alpha: float) -> None:
    rng = np.random.default_rng(0)
    map_ = evidence_map(sample_of((40, 20), ((4, 4), (10, 0, 30, 20))), tokens(rng.random(16)))
    flat = uniform(map_)
    assert len(np.unique(flat.values[~np.isnan(flat.values)])) == 1
    assert gain(flat, alpha).mean() == pytest.approx(gain(map_, alpha).mean(), abs=1e-12)
    assert gain(shift(map_, 3), alpha).mean() == pytest.approx(gain(map_, alpha).mean(), abs=1e-12)


def test_the_role_under_the_peak() -> None:
    grid = np.zeros((4, 4))
    grid[1, 2] = 1  # x 20 to 30, y 10 to 20
    map_ = evidence_map(whole((40, 40), 4, 4), tokens(grid), denoise=False, sigma=0.1)
    here, there = (18, 8, 32, 22), (0, 0, 9, 9)
    assert peak_role(map_, []) == "background"
    assert peak_role(map_, [interp.Region(there)]) == "background"
    assert peak_role(map_, [interp.Region(here, "distractor"), interp.Region(there)]) == "distractor"
    assert peak_role(map_, [interp.Region(here, "anchor"), interp.Region(here, "evidence")]) == "evidence"


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": -0.1}, "sigma=-0.1 is not a width"),
        ({"sigma": math.inf}, "sigma=inf is not a width"),
        ({"lam": 0.5}, "lam=0.5 would call ordinary cells spikes"),
        ({"lam": math.nan}, "lam=nan would call"),
        ({"variant": "nope"}, "Variant 'nope' is unknown; use interp or authors"),
        ({"image_index": 1}, "part of image 1 of this sample; check image_index"),
    ],
)
def test_maps_that_cannot_be_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InterpError, match=message):
        evidence_map(whole((20, 15), 3, 4), tokens(np.arange(12)), **options)


def test_samples_and_profiles_that_do_not_fit() -> None:
    ds = traces()
    profile = interp.profile_layers(ds)
    with pytest.raises(InterpError, match="of one sample; choose it first"):
        evidence_map(ds, profile)
    with pytest.raises(InterpError, match="Profile is of model 'synthetic/0', but this is 'synthetic/1'"):
        evidence_map(traces(seed=1).isel(sample=0), profile)
    with pytest.raises(InterpError, match=f"no layer {profile.layers[0]}, which the profile names"):
        evidence_map(ds.drop_sel(layer=profile.layers[0]).isel(sample=0), profile)


@pytest.mark.parametrize(
    ("weights", "alpha", "message"),
    [
        (np.ones((2, 3)), 1.01, r"alpha=1.01 is outside \[0, 1\]"),
        (np.ones((2, 3)), math.nan, "alpha=nan is outside"),
        (np.full((2, 3), 1.5), 0.5, r"reaches from 1.5 to 1.5, but must stay in \[0, 1\]"),
        (np.ones((3, 2)), 0.5, r"The map is 2 x 3 \(width x height\) and the picture 3 x 2"),
        (np.ones(3), 0.5, "two dimensions"),
    ],
)
def test_highlights_that_cannot_be_made(weights: Floats, alpha: float, message: str) -> None:
    with pytest.raises(InterpError, match=message):
        highlight(Image.new("RGB", (3, 2)), weights, alpha)
