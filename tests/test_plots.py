"""Figures hold the numbers they were given, say where these come from, and refuse what they cannot show. No browser is needed."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from drawings import (
    BINS,
    FIGURES,
    METHODS,
    PROVENANCE,
    all_right,
    binned,
    correctness,
    heads,
    highlighted,
    judged,
    live,
    scores,
    shift,
    summary,
    traced,
    unheld,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import interp.plots
from interp.analysis import Profile
from interp.errors import InterpError
from interp.plots import files, text

plots: Any = interp.plots  # plotly does not declare what a layout or a trace has


def texts(figure: Any) -> str:
    """All annotations and the title, as they are shown."""
    written = [figure.layout.title.text or "", *(note.text for note in figure.layout.annotations)]
    return re.sub(r"<br>|\s+", " ", " ".join(written))


def named(figure: Any, name: str) -> Any:
    """The line of a name (the band of the same name stands before it)."""
    return [trace for trace in figure.data if trace.name == name][-1]


# ------------------------------------------------------------------------------------------------------------ text


@given(st.text(max_size=200), st.integers(40, 600), st.integers(9, 16))
def test_lines_keep_all_characters_and_fit(said: str, room: int, size: int) -> None:
    made = text.lines(said, room, size)
    assert re.sub(r"\s", "", "".join(made)) == re.sub(r"\s", "", said)
    assert all(text.width(line, size) <= room or len(line) == 1 for line in made)


@given(st.text(min_size=1, max_size=300), st.integers(1, 3))
def test_a_shortened_text_is_a_beginning(said: str, at_most: int) -> None:
    whole, made = text.lines(said, 120), text.lines(said, 120, at_most=at_most)
    assert len(made) <= at_most
    assert made == whole or (made[-1].endswith("…") and whole[len(made) - 1].startswith(made[-1][:-1]))


def test_text_is_broken_at_spaces_then_hyphens_then_anywhere() -> None:
    assert text.lines("one two-three", text.width("one two-", 13) + 1) == ["one two-", "three"]
    assert text.lines("aaaa", text.width("aaa", 13) + 0.1) == ["aaa", "a"]
    assert text.plain("<b>&$1$</b>") == "&lt;b&gt;&amp;&#36;1&#36;&lt;/b&gt;"
    assert text.lines("", 100) == [""]


# ------------------------------------------------------------------------------------------------------ every figure


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_fits_the_page_and_has_a_caption(name: str) -> None:
    figure = FIGURES[name]()
    assert figure.layout.width <= 1120 and figure.layout.height <= 720
    assert figure.layout.template.layout.paper_bgcolor == "white"
    assert re.search(r"(digits|synthetic) test, prompt base, image-first, n = \d+", texts(figure))
    json.dumps(json.loads(figure.to_json()))


def test_every_public_figure_is_drawn_in_these_tests() -> None:
    used = (Path(__file__).parent / "drawings.py").read_text()
    assert [name for name in plots.__all__ if name != "save" and f" {name}(" not in used] == []


# ----------------------------------------------------------------------------------------------------------- curves


def test_attention_shift_draws_mean_and_interval() -> None:
    rapt = shift(8)
    figure = plots.attention_shift(rapt)
    line, band = named(figure, "image"), figure.data[2]
    of_image = rapt.sel(section="image")
    np.testing.assert_allclose(line.y, of_image["mean"])
    np.testing.assert_allclose(band.y, [*of_image["interval"][1], *of_image["interval"][0][::-1]])
    assert line.line.color == band.fillcolor.replace("rgba(0, 158, 115, 0.2)", "#009e73")
    assert figure.layout.yaxis.type == "log" and "Logarithmic" in texts(figure)
    assert "Bands: 95% percentile bootstrap interval over image_id." in texts(figure) and "n = 500" in texts(figure)


def test_a_narrow_range_has_a_linear_axis_from_zero() -> None:
    figure = plots.attention_shift(shift(8), sections=["image"])
    assert figure.layout.yaxis.type is None and figure.layout.yaxis.range[0] <= 0
    assert "Logarithmic" not in texts(figure)


def test_a_bound_of_zero_stays_on_a_logarithmic_axis() -> None:
    rapt = shift(8)
    rapt["interval"] = rapt["interval"].where(rapt["ci_bound"] == "upper", 0.0)
    figure = plots.attention_shift(rapt)
    assert figure.layout.yaxis.type == "log"
    assert all(np.asarray(trace.y, dtype=float).min() > 0 for trace in figure.data)


def test_layers_without_a_value_have_no_marker_and_no_band() -> None:
    figure = plots.attention_shift(shift(12, every=6))
    line, band = named(figure, "image"), figure.data[2]
    assert np.flatnonzero(~np.isnan(np.asarray(line.y, dtype=float))).tolist() == [5, 11] and line.connectgaps
    assert sorted(set(band.x)) == [5, 11] and np.isfinite(np.asarray(band.y, dtype=float)).all()
    assert "n = 500." in texts(figure)  # the layers without a value do not make it "0 to 500"


def test_without_an_interval_the_caption_says_so() -> None:
    rapt = shift(4)
    rapt["interval"] = rapt["interval"] * np.nan
    assert "No bands: an interval needs two pictures or more." in texts(plots.attention_shift(rapt))


def test_evidence_by_correctness_is_solid_and_dashed() -> None:
    split = correctness(8)
    figure = plots.evidence_by_correctness(split)
    right, wrong = named(figure, "evidence, correct"), named(figure, "evidence, wrong")
    np.testing.assert_allclose(wrong.y, split["mean"].sel(group="wrong", section="evidence"))
    assert (right.line.dash, wrong.line.dash) == ("solid", "dash") and right.line.color == wrong.line.color == "#d55e00"
    below = named(figure, "evidence, difference")
    np.testing.assert_allclose(below.y, split["difference"].sel(section="evidence"))
    assert below.yaxis == "y2" and "n = 500 correct, 188 wrong" in texts(figure)
    alone = plots.evidence_by_correctness(split.drop_vars(["difference", "difference_interval"]))
    assert {trace.yaxis for trace in alone.data} == {"y"}


def test_without_wrong_answers_there_is_neither_their_line_nor_a_difference() -> None:
    figure = plots.evidence_by_correctness(all_right())
    assert {trace.name for trace in figure.data} == {"evidence, correct", "non-evidence, correct"}
    assert "n = 4 correct, 0 wrong" in texts(figure) and "correct minus wrong" not in texts(figure)


def test_mass_by_layer_draws_the_heads_range() -> None:
    mass = xr.DataArray(np.random.default_rng(0).random((5, 4, 3)), dims=["sample", "layer", "head"], coords={"layer": range(4)})
    band, line = plots.mass_by_layer(mass.assign_attrs(PROVENANCE)).data
    np.testing.assert_allclose(line.y, mass.mean(["sample", "head"]))
    np.testing.assert_allclose(band.y[:4], mass.mean("sample").max("head"))


# ------------------------------------------------------------------------------------------------------------- heads


def test_head_grounding_is_centred_at_chance_and_marks_the_profile() -> None:
    auroc, profile = heads(8, 6)
    figure = plots.head_grounding(auroc, profile)
    heat = figure.data[0]
    np.testing.assert_allclose(heat.z, auroc["mean"].transpose("head", "layer"))
    assert heat.zmid == 0.5 and heat.zmin + heat.zmax == pytest.approx(1)
    frame = figure.layout.shapes[0]
    assert (frame.x0, frame.x1) == (3.5, 5.5) and len(figure.layout.shapes) == 1  # layers 4 and 5 in one frame
    assert list(zip(figure.data[2].x, figure.data[2].y, strict=True)) == list(profile.heads)
    alone = plots.head_grounding(auroc["mean"].assign_attrs(PROVENANCE, n=77))
    assert "n = 77" in texts(alone) and len(alone.data) == 1


def test_layers_apart_have_their_own_frames() -> None:
    auroc, _ = heads(9, 2)
    profile = Profile((1, 2, 5, 7), (0.5,) * 9, (), (), 0.1, "any", 0, {})
    shapes = plots.head_grounding(auroc, profile).layout.shapes
    assert [(s.x0, s.x1) for s in shapes] == [(0.5, 2.5), (4.5, 5.5), (6.5, 7.5)]


# ------------------------------------------------------------------------------------------------------------ methods


def test_methods_draws_scores_and_differences_in_the_same_rows() -> None:
    mean, (base, inst) = scores(METHODS)
    figure = plots.methods(mean, base, inst)
    left, middle, _ = (trace for trace in figure.data if trace.mode == "markers")
    np.testing.assert_allclose(left.x, mean["mean"])
    np.testing.assert_allclose(left.error_x.array, mean["interval"][1] - mean["mean"])
    np.testing.assert_allclose(left.error_x.arrayminus, mean["mean"] - mean["interval"][0])
    rows = dict(zip(middle.y, middle.x, strict=True))
    assert rows == {
        METHODS.index(name): pytest.approx(value) for name, value in zip(base["method"].values, base["difference"].values, strict=True)
    }
    assert "base" not in base["method"] and METHODS.index("base") not in rows
    assert figure.layout.yaxis.ticktext == tuple(METHODS)
    for p in base["p_holm"].values:
        assert (f"p = {p:.3f}" if p >= 0.001 else "p &lt; 0.001") in texts(figure)
    assert "difference from base" in texts(figure) and "difference from inst" in texts(figure)


def test_a_method_has_one_colour_everywhere() -> None:
    mean, compared = scores(METHODS)
    left, middle, _ = (trace for trace in plots.methods(mean, *compared).data if trace.mode == "markers")
    in_quality = {trace.name: trace.marker.color for trace in plots.accuracy_by_quality(binned(METHODS)).data}
    assert dict(zip(METHODS, left.marker.color, strict=True)) == in_quality
    assert middle.marker.color == left.marker.color[1:] and len(set(left.marker.color)) == len(METHODS)


def test_a_difference_without_p_value_says_so() -> None:
    mean, (base, _) = scores(METHODS)
    base["p_holm"] = base["p_holm"] * np.nan
    assert "p undefined" in texts(plots.methods(mean, base))


def test_a_method_without_a_score_has_no_row_and_is_named() -> None:
    mean, (base, _) = scores(METHODS)
    kept = [name for name in METHODS if name != "vea"]
    where = mean["method"] != "vea"
    lacking = mean.assign(mean=mean["mean"].where(where), interval=mean["interval"].where(where), n=mean["n"].where(where, 0))
    figure = plots.methods(lacking, base.where(base["method"] != "vea"))
    assert list(figure.layout.yaxis.ticktext) == kept and "Not applicable to this model: vea." in texts(figure)
    left, right = (trace for trace in figure.data if trace.mode == "markers")
    np.testing.assert_allclose(left.x, mean["mean"].sel({"method": kept}))
    assert len(right.x) == len(kept) - 1 and np.isfinite(right.x).all()


def test_accuracy_by_quality_draws_bins_and_their_sizes() -> None:
    result = binned(METHODS[:3])
    figure = plots.accuracy_by_quality(result)
    assert [trace.name for trace in figure.data] == METHODS[:3]
    np.testing.assert_allclose(figure.data[1].y, result["mean"].sel({"method": "inst"}))
    assert [label.split("<br>")[0] for label in figure.layout.xaxis.ticktext] == BINS
    assert figure.layout.xaxis.ticktext[-1].endswith("n = 0") and "n = 200" in texts(figure)
    assert "under 0.5" in texts(figure)


# --------------------------------------------------------------------------------------------------------- disconnect


def test_disconnect_table_holds_counts_shares_and_their_chance_level() -> None:
    result = judged()
    figure = plots.disconnect_table(result)
    tables = [trace for trace in figure.data if trace.type == "heatmap"]
    order = ("seen", "readable", "correct")
    for null, trace in zip(result["null"].values, tables, strict=True):
        one = result.sel(null=null)
        np.testing.assert_allclose(np.ravel(trace.z), one["share"].transpose(*order).values.ravel())
        counts = [int(re.findall(r"<b>(\d+)</b>", cell)[0]) for cell in np.ravel(trace.text)]
        assert counts == one["count"].transpose(*order).values.ravel().tolist() and sum(counts) == int(one["n"])
    shown = texts(figure)
    for null in result["null"].values:
        for group in ("correct", "wrong"):
            share, chance = (100 * float(result[name].sel(null=null, group=group)) for name in ("seen_share", "seen_expected"))
            assert f"{share:.1f}%, chance {chance:.1f}%" in shown
        outcome = result.sel(null=null, outcome="seeing but not believing")
        assert f"{100 * outcome['outcome_share']:.1f}%, chance {100 * outcome['outcome_expected']:.1f}%" in shown
    assert f"against {result.attrs['headline']} boxes, the headline" in shown and "Visibility: visible 24" in shown
    below = [trace for trace in figure.data if trace.type == "scatter"]
    assert [len(trace.x) for trace in below] == [5] * 4


def test_only_the_cell_of_seeing_but_not_believing_is_framed() -> None:
    figure = plots.disconnect_table(judged())
    assert [(s.x0 + s.x1, s.y0 + s.y1) for s in figure.layout.shapes] == [(2, 0), (2, 0)]  # column wrong, row seen and readable
    assert figure.layout.xaxis.ticktext == ("correct", "wrong") and figure.layout.yaxis.ticktext[0] == "seen, readable"


def test_without_reading_nothing_is_called_seeing_but_not_believing() -> None:
    figure = plots.disconnect_table(judged(readable=False))
    assert figure.layout.yaxis.ticktext == ("seen", "unseen") and not figure.layout.shapes
    assert "not believing" not in texts(figure) and [len(t.x) for t in figure.data if t.type == "scatter"] == [3] * 4


def test_a_null_that_judges_nobody_is_left_out_and_named() -> None:
    figure = plots.disconnect_table(unheld(judged()))
    assert len([trace for trace in figure.data if trace.type == "heatmap"]) == 1
    assert "No sample could be held against distractor boxes." in texts(figure)
    with pytest.raises(InterpError, match="No sample of this result was judged"):
        plots.disconnect_table(unheld(judged(null="distractor")))


# ----------------------------------------------------------------------------------------------------------- pictures


def test_layer_maps_share_one_scale_and_paint_each_token_on_its_region() -> None:
    sample, image = traced(28)
    figure = plots.layer_maps(sample, image)
    heat = [trace for trace in figure.data if trace.type == "heatmap"]
    shown = [int(note.text.split()[1]) for note in figure.layout.annotations if note.text.startswith("layer ")]
    assert len(heat) == len(shown) == 12 and (shown[0], shown[-1]) == (0, 27)
    assert {trace.coloraxis for trace in heat} == {"coloraxis"} and figure.layout.coloraxis.cmin == 0
    mean = sample["attention"].mean("head")
    on_image = ~np.isnan(sample["token_box"].values[:, 0])
    top = np.quantile(mean.sel(layer=shown).values[:, on_image], 0.995)
    assert figure.layout.coloraxis.cmax == pytest.approx(top, rel=1e-5) and f"{top:.3g}" in texts(figure)
    token = int(np.flatnonzero(on_image)[9])
    x, y = sample["token_box"].values[token].reshape(2, 2).mean(axis=0).astype(int)
    for layer, trace in zip(shown, heat, strict=True):
        assert np.asarray(trace.z, dtype=float)[y, x] == pytest.approx(float(mean.sel(layer=layer)[token]), rel=1e-5)


def test_boxes_stand_on_every_panel_in_their_role_s_colour() -> None:
    sample, image = traced()
    figure = plots.layer_maps(sample, image, layers=[1, 2])
    roles = sample["evidence_role"].values.tolist()
    colours = [shape.line.color for shape in figure.layout.shapes]
    assert colours.count("#d55e00") == 2 * roles.count("evidence") and colours.count("#8c8c8c") == 2 * roles.count("distractor")
    evidence = next(shape for shape in figure.layout.shapes if shape.line.color == "#d55e00")
    box = sample["evidence_box"].values[roles.index("evidence")] - 0.5
    np.testing.assert_allclose([evidence.x0, evidence.y0, evidence.x1, evidence.y1], box)


def test_a_large_picture_is_reduced_with_its_boxes() -> None:
    sample, image = traced(stretch=(20, 20))
    figure = plots.attention_over_image(sample, image, layers=[0])
    heat = next(trace for trace in figure.data if trace.type == "heatmap")
    assert max(np.shape(heat.z)) == 256
    scale = 256 / max(image.size)
    box = sample["evidence_box"].values[0] * scale - 0.5
    drawn = [(s.x0, s.y0, s.x1, s.y1) for s in figure.layout.shapes]
    assert any(np.allclose(each, box, atol=1) for each in drawn)


def test_a_layer_that_cannot_reach_the_picture_is_an_empty_panel() -> None:
    sample, image = traced()
    attention = sample["attention"].where(sample["layer"] != 2)
    figure = plots.layer_maps(sample.assign(attention=attention), image, layers=[1, 2])
    first, second = (trace for trace in figure.data if trace.type == "heatmap")
    assert np.isfinite(np.asarray(first.z)).all() and np.isnan(np.asarray(second.z)).all()
    assert np.isfinite(figure.layout.coloraxis.cmax)


def test_before_after_shows_both_pictures_the_map_and_the_answers() -> None:
    sample, image = traced()
    figure = highlighted(sample, image)
    first, last = (trace for trace in figure.data if trace.type == "image")
    held = Image.open(io.BytesIO(base64.b64decode(first.source.split(",")[1])))
    np.testing.assert_array_equal(np.asarray(held.convert("RGB")), np.asarray(image))
    assert first.source != last.source
    assert figure.layout.coloraxis.cmin == 0 and figure.layout.coloraxis.cmax == 1
    shown = texts(figure)
    assert "Answer: nine" in shown and "Answer: seven" in shown and "Reference: two / two three" in shown
    assert "no token stands for these pixels" in shown


def test_live_markup_is_escaped_in_titles_and_answers() -> None:
    sample, image = traced()
    shown = texts(highlighted(live(sample), image, before="<i>x</i>", after="$1$"))
    assert "What &lt;b&gt;is&lt;/b&gt;" in shown and "&lt;i&gt;x&lt;/i&gt;" in shown and "$" not in shown


# ------------------------------------------------------------------------------------------------------------- errors


def test_what_cannot_be_drawn_is_refused_in_one_sentence() -> None:
    sample, image = traced()
    several = xr.concat([sample, sample], dim="sample")
    wrong = xr.DataArray(np.zeros((3, 4)), dims=["y", "x"])
    mean, compared = scores(METHODS)
    cases = [
        (lambda: plots.attention_shift(shift(4).drop_vars("interval")), "needs 'interval'.*mean_interval"),
        (lambda: plots.attention_shift(shift(4), sections=["sky"]), "'sky' is unknown; use some of question, image"),
        (lambda: plots.evidence_by_correctness(shift(4)), "needs 'group'.*by_correctness"),
        (lambda: plots.evidence_by_correctness(correctness(4), sections=["sky"]), "'sky' is unknown"),
        (lambda: plots.head_grounding(shift(4)), "shows .layer, head., not"),
        (lambda: plots.layer_maps(several, image), "one sample"),
        (lambda: plots.layer_maps(sample, image, layers=[1, 99]), r"Layers \[99\] are not in this trace"),
        (lambda: plots.layer_maps(sample, image, image_index=3), "image 3; check image_index"),
        (lambda: plots.before_after(sample, image, wrong, image, "a", "b"), r"differ in size"),
        (lambda: plots.before_after(several, image, wrong, image, "a", "b"), "one sample"),
        (lambda: plots.methods(mean.drop_vars("n")), "needs 'n'"),
        (lambda: plots.methods(mean.isel(method=[])), "No method is left"),
        (lambda: plots.methods(mean, compared[0].drop_vars("p_holm")), "needs 'p_holm'.*compare"),
        (lambda: plots.disconnect_table(shift(4)), "needs 'count', 'share'.*the result of disconnect"),
        (lambda: plots.accuracy_by_quality(summary(mean["mean"])), "needs 'bin'"),
    ]
    for call, sentence in cases:
        with pytest.raises(InterpError, match=sentence) as caught:
            call()
        assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------------------------- files


def test_figures_are_written_as_html_that_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    written, notes = files.save({"a": FIGURES["shift"](), "b": FIGURES["mass"]()}, tmp_path / "out")
    assert [path.name for path in written] == ["a.html", "b.html"] and (tmp_path / "out" / "plotly.min.js").exists()
    assert "https://" not in re.sub(r'"plotlyServerURL":"[^"]*"', "", written[0].read_text()).replace("https://plot.ly", "")
    assert len(notes) == 1 and "HTML only" in notes[0]


def test_png_files_have_the_figure_s_own_size(tmp_path: Path) -> None:
    if not any(shutil.which(name) for name in files.BROWSERS):
        pytest.skip("no Chrome or Chromium was found; PNG files need one")
    figure = FIGURES["shift"]()
    written, notes = files.save({"a": figure}, tmp_path)
    if notes:
        pytest.skip(notes[0])
    with Image.open(written[-1]) as image:
        assert image.size == (2 * figure.layout.width, 2 * figure.layout.height)
