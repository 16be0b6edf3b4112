"""Findings: what a trace allows is analysed, what it does not is said; settings say the same as flags and as a command line."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from interp.analysis import profile_layers, rapt
from interp.errors import InterpError
from interp.findings import analyse, compare_methods, draw, draw_methods, mended_sample, typical_sample, write_tables
from interp.settings import EvaluateSettings, TraceSettings
from interp.tables import analysis_tables, method_tables
from interp.testing import planted, planted_answers, traces


def test_without_visible_evidence_the_rest_is_still_said(tmp_path: Path) -> None:
    ds = planted(40, seed=1)
    profile = profile_layers(planted(40, seed=2).assign_coords(image_id=("sample", [f"other {k}" for k in range(40)])))
    found = analyse(ds.assign_coords(visibility=("sample", np.full(40, "too_small"))), profile)
    assert found.disconnect is None and found.heads is not None
    assert any("visible evidence" in note for note in found.notes)
    assert "disconnect_table" not in draw(found) and "head_grounding" in draw(found)
    assert not (tmp_path / "disconnect.csv").exists() and all(path.exists() for path in write_tables(found, tmp_path))
    Console(quiet=True).print(*analysis_tables(found))


def test_without_any_evidence_attention_by_segment_is_left(tmp_path: Path) -> None:
    ds = traces(n=4)
    bare = ds.assign(coverage=ds["coverage"] * 0)
    found = analyse(bare)
    assert found.heads is None and not found.measures and any("evidence" in note for note in found.notes)
    assert list(draw(found)) == ["attention_shift"]
    assert {path.name for path in write_tables(found, tmp_path)} == {"visibility.csv", "rapt.csv", "rapt_by_correctness.csv"}


def test_a_foreign_profile_is_refused_before_the_work() -> None:
    ds = planted(20, seed=1)
    with pytest.raises(InterpError, match="fitted on 10"):
        analyse(ds, profile_layers(ds))


def test_methods_are_compared_with_base_and_inst() -> None:
    answers = planted_answers(60, {"inst": 0.0, "vea": 0.3}, seed=0)
    compared = compare_methods(answers)
    assert [each.attrs["against"] for each in compared.against] == ["base", "inst"]
    by_hand = answers["exact_match"].sel({"method": "vea"}).values - answers["exact_match"].sel({"method": "inst"}).values
    assert float(compared.against[1]["difference"].sel({"method": "vea"})) == pytest.approx(by_hand.mean())
    assert set(draw_methods(compared)) == {"methods"}
    Console(quiet=True).print(*method_tables(compared))


def test_the_effect_by_quality_is_of_the_highlighting_alone() -> None:
    """`vea` less `inst`, counted by hand; `inst` differs from `base` here, so that taking the wrong one shows."""
    answers = planted_answers(80, {"inst": 0.3, "vea": -0.2}, seed=3)
    quality = np.random.default_rng(0).uniform(0, 1, 80)
    compared = compare_methods(answers.assign(profiled_auroc=("sample", quality)))
    assert compared.effect is not None and compared.quality is not None
    table = dict(zip(answers["method"].values.astype(object), answers["exact_match"].values, strict=True))
    low = quality < 0.5
    assert float(compared.effect["mean"][0]) == pytest.approx((table["vea"] - table["inst"])[low].mean())
    assert float(compared.quality["mean"].sel({"method": "base"})[0]) == pytest.approx(table["base"][low].mean())
    assert set(draw_methods(compared)) == {"methods", "accuracy_by_quality"}


def test_the_samples_to_draw_are_those_it_says() -> None:
    scores = xr.DataArray([[0, 1, 0, 1, 1, 1], [0, 0, 1, 1, 0, 1]], dims=("method", "sample"), coords={"method": ["base", "vea"]})
    answers = xr.Dataset({"exact_match": scores, "profiled_auroc": ("sample", [0.1, 0.9, 0.2, 0.5, 0.7, 0.0])})
    asked = answers.assign_coords(knob_absent=("sample", [False, False, False, False, False, True]))
    assert mended_sample(asked) == 2  # sample 1 is the first that vea loses
    assert typical_sample(asked) == 4  # of 0.9, 0.5, 0.7; the absent one's 0.0 does not count
    assert mended_sample(asked.isel(sample=[0, 1, 3])) == 1 and typical_sample(asked.isel(sample=[0, 2])) == 0
    assert mended_sample(asked.isel(sample=[5, 0])) == 0


def test_every_analysis_follows_the_overlap_rule_of_the_profile() -> None:
    ds, elsewhere = planted(40, seed=1), planted(40, seed=2)
    profile = profile_layers(elsewhere.assign_coords(image_id=("sample", [f"other {k}" for k in range(40)])), rule="half")
    found = analyse(ds, profile)
    rule_matters = analyse(ds, replace(profile, rule="any"))
    measured = found.measures["relative attention on evidence"]["mean"].sel(group="correct")
    right = (ds["exact_match"].values == 1) & ~ds["knob_absent"].values
    expected = rapt(ds, rule="half").sel(section="evidence", layer=list(profile.layers)).mean("layer").values[right]
    assert float(measured) == pytest.approx(np.nanmean(expected))
    for name in ("relative attention on evidence", "AUROC of the profiled map", "AUROC, mean over layers"):
        one, other = (float(each.measures[name]["mean"].sel(group="correct")) for each in (found, rule_matters))
        assert one != pytest.approx(other, abs=1e-6), name
    assert found.disconnect is not None and found.disconnect.attrs["overlap_rule"] == "half"


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ("trace", TraceSettings(model="a b", benchmark="digits", out=Path("x y.zarr"), limit=3, skip_bad=True, queries="-1,-2")),
        ("evaluate", EvaluateSettings(model="m", benchmark="digits", out=Path("x"), methods=("base", "vea"), alpha=0.25)),
    ],
)
def test_a_command_line_says_what_the_settings_say(command: str, settings: TraceSettings | EvaluateSettings) -> None:
    program, said, *words = shlex.split(settings.command_line(command))
    assert (program, said) == ("interp", command)
    flags: dict[str, object] = {}
    while words:
        name = words.pop(0).removeprefix("--").replace("-", "_")
        # a flag without a value is a switch; "-1,-2" is a value
        flags[name] = words.pop(0) if words and not words[0].startswith("--") else True
    assert type(settings).model_validate(flags) == settings
    assert "limit" not in settings.command_line(command, without=("limit",))
