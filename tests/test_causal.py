"""`interp sweep`, `interp knockout` and `interp patch` as a user meets them, and the causal study from its first sentence to its last."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import experiments.causal as package
import interp
from experiments.causal import main as study
from experiments.causal_study import evidence, heads
from experiments.causal_study.material import Material
from interp import cli
from interp.plots import files
from interp.testing import tiny_vlm

# the command line reads sys.argv here as it does for a user, which cyclopts takes for an oversight
pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")

ASKED = ("--model", "demo/llava", "--benchmark", "digits", "--limit", "3")


class Done(NamedTuple):
    """What a command left behind."""

    status: int
    said: str
    complaint: str

    def files(self) -> list[Path]:
        return [Path(line.removeprefix("wrote ")) for line in self.said.splitlines() if line.startswith("wrote ")]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    monkeypatch.setattr(files, "BROWSERS", ())  # drawing PNG files starts a browser

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["interp", *arguments])
        capsys.readouterr()
        try:
            cli.main()
        except SystemExit as end:
            said = capsys.readouterr()
            return Done(int(end.code or 0), said.out, said.err)
        raise AssertionError("the command line ends the process")

    return call


def table_of(path: Path) -> Any:
    """A CSV file as a data frame, whose columns no type checker knows."""
    return pd.read_csv(path)


def stored(out: Path, name: str) -> xr.Dataset:
    return xr.open_zarr(out / f"{name}.zarr", consolidated=False).load()


def agrees(done: Done, out: Path, *names: str) -> None:
    """The named files are the ones that are there, and figures hold something to see."""
    assert done.status == 0, done.complaint
    assert [path.relative_to(out).as_posix() for path in done.files()] == list(names)
    assert all(path.exists() for path in done.files())
    for path in (path for path in done.files() if path.suffix == ".html"):
        assert '"type":"heatmap"' in (text := path.read_text()) or '"type":"scatter"' in text
    assert "HTML only" in done.said or not any(name.endswith(".html") for name in names)


# ------------------------------------------------------------------------------------------------------------- commands


def test_sweep_writes_the_mean_over_samples_of_what_it_stored(run: Callable[..., Done], tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    done = run("sweep", *ASKED, "--reference-limit", "4", "--out", str(out))
    agrees(done, out, "sweep.zarr", "heads.csv", "head_effects.html")
    result, table = stored(out, "sweep"), table_of(out / "heads.csv").set_index(["layer", "head"])
    assert dict(result["delta_logprob"].sizes) == {"sample": 3, "layer": 8, "head": 8}
    assert result.attrs["mode"] == "mean" and result.attrs["positions"] == "generated"
    assert result.attrs["reference"] == "digits profile" and len(table) == 64
    for name in ("delta_logprob", "delta_logit_diff", "flip"):
        expected = result[name].astype(float).mean("sample").values.ravel()
        np.testing.assert_allclose(table[f"{name}_mean"], expected, atol=1e-12)
    layer, head = table["delta_logprob_mean"].idxmin()
    assert f"{table['delta_logprob_mean'].min():.3f}" in done.said and f"L{layer}H{head}" in done.said


@pytest.mark.parametrize(("mode", "kept"), [("mean", "last"), ("resample", "all")])
def test_only_donors_are_kept_at_every_position(mode: Any, kept: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A set of a hundred prompts of a large model, whole, is tens of gigabytes; a mean needs none of it."""
    from interp import causal
    from interp.interventions import head_reference, head_sweep
    from interp.settings import SweepSettings
    from interp.testing import samples

    asked: list[Any] = []

    def referring(*args: Any, positions: Any, **kwargs: Any) -> Any:
        asked.append(positions)
        return head_reference(*args, positions=positions, **kwargs)

    def sweeping(*args: Any, chunk: Any, **kwargs: Any) -> Any:
        asked.append(chunk)
        return head_sweep(*args, chunk=chunk, **kwargs)

    monkeypatch.setattr(causal, "head_reference", referring)
    monkeypatch.setattr(causal, "head_sweep", sweeping)
    monkeypatch.setattr(files, "BROWSERS", ())
    how = SweepSettings(model="tiny", benchmark="none", out=tmp_path, mode=mode, positions="all", max_new_tokens=1, batch_size=5)
    found = causal.run_sweep(tiny_vlm(), samples(1), how, samples(3, seed=4))
    assert asked == [kept, 5] and "1 samples, 16 heads" in found.sentence


def test_knockout_compares_evidence_with_its_control(run: Callable[..., Done], tmp_path: Path) -> None:
    out = tmp_path / "knockout"
    done = run("knockout", *ASKED, "--window", "3", "--to", "text", "--out", str(out))
    agrees(done, out, "knockout.zarr", "knockout.csv", "knockout.html")
    result, table = stored(out, "knockout"), table_of(out / "knockout.csv")
    assert [str(name) for name in result["block"].values] == ["evidence", "control", "question"]
    np.testing.assert_array_equal(result["n_blocked"].isel(block=0), result["n_blocked"].isel(block=1))
    right = result["exact_match"].values == 1
    for layer in (0, 5):
        mean = np.nanmean(result["delta_logprob"].isel(block=0, layer=layer).values[right])
        row = table.query(f"group == 'correct' and block == 'evidence' and layer == {layer}")
        assert row["mean"].tolist() == pytest.approx([mean])
    least = result["delta_logprob"].isel(block=0).mean("sample")
    assert f"evidence {float(least.min()):.3f} nats at layer {np.argmin(least.values)}" in done.said
    assert "Window: 3 layers" in (out / "knockout.html").read_text()


def test_knockout_of_one_block_has_a_table_of_it(run: Callable[..., Done], tmp_path: Path) -> None:
    out = tmp_path / "question"
    done = run("knockout", *ASKED[:-1], "1", "--block", "question", "--out", str(out))
    agrees(done, out, "knockout.zarr", "knockout.csv")
    assert table_of(out / "knockout.csv")["block"].tolist() == ["question"] * 8


def test_patch_recovers_the_digit(run: Callable[..., Done], tmp_path: Path) -> None:
    out = tmp_path / "patch"
    done = run("patch", *ASKED, "--batch-size", "7", "--out", str(out))
    agrees(done, out, "patching.zarr", "patching.csv", "patching.html")
    result, table = stored(out, "patching"), table_of(out / "patching.csv").set_index(["group", "layer"])
    known = int(result["recovery"].notnull().any(["layer", "group"]).sum())
    assert f"{known} of {result.sizes['pair']} pairs" in done.said and known > 0
    # all of the stream after any layer is all there is, and the last layer's answer is in the last position
    np.testing.assert_allclose(table.loc["all", "mean"], 1, atol=1e-3)
    assert table.loc[("last", 7), "mean"] == pytest.approx(1, abs=1e-3)
    assert table.loc[("last", 0), "mean"] == pytest.approx(0, abs=0.2)


def test_another_seed_draws_other_digits_and_pairs_that_do_not_differ_make_no_figure(run: Callable[..., Done], tmp_path: Path) -> None:
    wanted = []
    for seed in ("0", "1"):
        out = tmp_path / seed
        done = run("patch", *ASKED[:-1], "2", "--site", "head", "--seed", seed, "--min-difference", "1000", "--out", str(out))
        agrees(done, out, "patching.zarr", "patching.csv")
        assert "0 of" in done.said
        wanted.append(stored(out, "patching")["corrupted_answer"].values.tolist())
    assert wanted[0] != wanted[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sweep", *ASKED, "--mode", "half"), "--mode 'half': input should be 'zero', 'mean' or 'resample'"),
        (("sweep", *ASKED, "--reference-limit", "1"), "--reference-limit '1': input should be greater than or equal to 2"),
        (("sweep", *ASKED, "--reference-split", "none"), "no split 'none'; use one of train, validation, profile, test"),
        (("sweep", *ASKED, "--prompt", "what?"), "Prompt 'what?' is unknown"),
        (("knockout", *ASKED, "--block", "evidenc"), "Block 'evidenc' is unknown; use some of evidence, control"),
        (("knockout", *ASKED, "--block", "question,question"), "names none, or one twice"),
        (("knockout", *ASKED, "--window", "0"), "--window '0': input should be greater than or equal to 1"),
        (("patch", *ASKED, "--pairs", "highlight"), "--pairs highlight needs --trace"),
        (("patch", *ASKED, "--pairs", "highlight", "--trace", "no.zarr", "--profile", "no.json"), "Store 'no.zarr' does not exist"),
        (("patch", *ASKED, "--min-difference", "0"), "--min-difference '0': input should be greater than 0"),
        (("patch", *ASKED[:-1], "1", "--pairs", "arms"), "There are no pairs to patch"),
    ],
)
def test_bad_input_gets_one_sentence(run: Callable[..., Done], tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments, "--out", str(tmp_path / "out"))
    assert done.status == 2
    lines = [line for line in done.complaint.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: ") and said in lines[0], done.complaint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["sweep", "knockout", "patch"])
def test_a_file_is_no_folder_and_help_has_an_example(run: Callable[..., Done], tmp_path: Path, command: str) -> None:
    target = tmp_path / "file"
    target.write_text("")
    done = run(command, *ASKED, "--out", str(target))
    assert done.status == 2 and f"Output {str(target)!r} is a file" in done.complaint
    shown = " ".join(run(command, "--help").said.split())
    assert f"Example: interp {command} --model demo/llava --benchmark digits" in shown


# ------------------------------------------------------------------------------------------------------------ the study


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of six samples; warnings are errors here as everywhere."""
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        load = interp.load_benchmark

        def capped(name: str, split: str = "test", limit: int | None = None) -> Any:
            return load(name, split=split, limit=min(limit or 12, 12) if split == "profile" else limit)

        patch.setattr(interp, "load_benchmark", capped)
        patch.setattr(files, "BROWSERS", ())
        patch.setattr(evidence, "_PAIRS", 1)
        patch.setattr(heads, "_DRAWS", 1)
        patch.setattr(heads.ablations, "__defaults__", ((1, 6),))
        study(limit=6, n_reference=3, n_train=30, batch_size=6, out=out)
    return out


def test_the_study_writes_what_it_promises(studied: Path) -> None:
    names = re.findall(r"[\w*]+\.(?:csv|md|zarr|\*)", str(package.__doc__))
    assert len(names) > 15
    for name in names:
        assert list(studied.glob(name)), name
    undocumented = [path.name for path in studied.iterdir() if path.name != "plotly.min.js" and not any(path.match(name) for name in names)]
    assert not undocumented


def test_the_summary_says_what_the_tables_do(studied: Path) -> None:
    summary = (studied / "summary.md").read_text()
    traced = interp.open_trace(studied / "test.zarr").load()
    wrong = int(((traced["exact_match"] == 0) & (traced["visibility"] != "none")).sum())
    assert f"n = 6, {wrong} wrong answers" in summary
    said = ["Single heads", "Do the heads that look right matter?", "Ablating the 6 best", "Ablation beside masking", "Knock-out"]
    said += ["Patching, digit pairs", "Does VEA change the model", "Where the answer can be read", "Wrong answers by class"]
    assert all(f"**{heading}" in summary for heading in said)
    effects = table_of(studied / "taxonomy.csv").set_index(["layer", "head"])["delta_logprob"]
    layer, head = effects.idxmin()
    assert f"The largest loss is {effects.min():.2f} nats, L{layer}H{head}" in summary


def test_ablations_stand_beside_both_controls(studied: Path) -> None:
    table = table_of(studied / "ablation.csv")
    assert set(table["against"]) == {"none", "layer-matched", "random"} and set(table["k"]) == {1, 6}
    assert (table.query("against == 'random'")["shared_heads"] == 0).all()
    assert (table["p_holm"] >= table["p_permutation"]).all()
    np.testing.assert_allclose(table["difference"], table["mean"] - table["mean_against"], atol=1e-12)
    traced = interp.open_trace(studied / "test.zarr")
    for score, name in (("exact match", "exact_match"), ("reference log-probability", "reference_logprob")):
        against = table[(table["score"] == score) & (table["against"] == "none")]["mean_against"]
        np.testing.assert_allclose(against, float(traced[name].mean()))
    masked = table_of(studied / "masking.csv")
    assert masked["ablated"].tolist() == ["none", "top 8", "layer-matched 8", "random 8"]
    np.testing.assert_allclose(masked["vea less inst"], masked["vea"] - masked["inst"], atol=1e-12)
    np.testing.assert_allclose(
        masked["gain less none's, difference"], masked["vea less inst"] - masked["vea less inst"].iloc[0], atol=1e-12
    )


def test_best_heads_are_those_of_the_profile_split(studied: Path) -> None:
    fitted = interp.open_trace(studied / "profile.zarr")
    mean = interp.analysis.grounding(fitted, level="head")["auroc"].mean("sample")
    known: Any = {"vlm": None, "bench": (), "ds": None, "profile": None, "reference": None}
    layer, head = heads.best_heads(Material(**known, batch_size=1, out=studied))[0]
    assert float(mean.sel(layer=layer, head=head)) == float(mean.max())
    assert fitted.attrs["split"] == "profile"
