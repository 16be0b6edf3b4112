"""The command line as a user meets it: one sentence and a non-zero exit on bad input, files where it says."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from interp import cli
from interp.analysis import Profile
from interp.capture import open_trace
from interp.methods import open_answers
from interp.testing import tiny_vlm


def spawn(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A process of its own, as a user starts it."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    command = [sys.executable, "-c", "from interp.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd, env=environment)


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The same within this process, which has its imports behind it; what escapes the command line fails the test."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        chdir(cwd or Path.cwd()),
        mock.patch.object(sys, "argv", ["interp", *arguments]),
        mock.patch.dict(os.environ, HF_HUB_OFFLINE="1", COLUMNS="200"),
        redirect_stdout(out),
        redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Cyclopts application invoked without tokens")
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    vlm = tiny_vlm()
    vlm.hf_model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return folder


def visual_cot(folder: Path, box: list[int], reference: str = "STOP", image: bytes | None = None) -> tuple[str, ...]:
    """A one-sample Visual-CoT file in the training form, with its picture."""
    (folder / "images" / "textvqa").mkdir(parents=True)
    path = folder / "images" / "textvqa" / "a.png"
    if image is None:
        Image.new("RGB", (64, 48), "grey").save(path)
    else:
        path.write_bytes(image)
    row = {
        "question": "What does it say?",
        "answer": reference,
        "image": "a.png",
        "width": 64,
        "height": 48,
        "bboxs": [box],
        "dataset": "textvqa",
        "split": "train",
    }
    (folder / "textvqa_cot_train.jsonl").write_text(json.dumps(row) + "\n")
    return ("--annotations", str(folder / "textvqa_cot_train.jsonl"), "--images", str(folder / "images"), "--split", "train")


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    said = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(said) == 1, result.stderr
    for word in words:
        assert word in said[0]


def test_trace_writes_a_data_set_that_opens(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.zarr"
    result = spawn("trace", "--model", str(model), "--benchmark", "digits", "--limit", "3", "--out", str(out), "--queries", "-1,-2")
    assert result.returncode == 0, result.stderr
    assert str(out) in result.stdout
    ds = open_trace(out)
    assert ds["attention"].dims == ("sample", "layer", "head", "token") and ds.sizes["sample"] == 3
    assert ds["attention_rows"].sizes["query"] == 2
    assert json.loads(ds.attrs["settings"])["limit"] == 3
    refused(spawn("trace", "--model", str(model), "--benchmark", "digits", "--limit", "3", "--out", str(out)), "queries", str(out))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a profile and a test trace; of the organism, because a tiny model's picture is too small for its evidence."""
    folder = tmp_path_factory.mktemp("stores")
    (folder / "settings.toml").write_text('[trace]\nmodel = "demo/llava"\nbenchmark = "digits"\nlimit = 12\n')
    for split in ("profile", "test"):
        done = run("trace", "--config", "settings.toml", "--split", split, "--out", f"{split}.zarr", cwd=folder)
        assert done.returncode == 0, done.stderr
    done = run("profile", "profile.zarr", "--fraction", "0.3", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_profile_analyze_and_evaluate_write_what_they_name(stores: Path) -> None:
    profile = Profile.load(stores / "profile.json")
    assert profile.identity["split"] == "profile" and open_trace(stores / "test.zarr").sizes["sample"] == 12
    done = run("analyze", "test.zarr", "--profile", "profile.json", "--out", "found", cwd=stores)
    assert done.returncode == 0, done.stderr
    wrote = [stores / line.removeprefix("wrote ") for line in done.stdout.splitlines() if line.startswith("wrote ")]
    assert {"disconnect.csv", "rapt.csv", "evidence_by_correctness.html"} <= {path.name for path in wrote}
    assert all(path.stat().st_size > 0 for path in wrote)
    header, *rows = (stores / "found" / "disconnect.csv").read_text().splitlines()
    assert header.split(",") == ["null", "seen", "readable", "correct", "count", "share", "interval_lower", "interval_upper"]
    assert len(rows) == 2 * 2 * 1 * 2  # null x seen x (reading unknown) x correct
    asked = ("--model", "demo/llava", "--benchmark", "digits", "--limit", "4", "--methods", "base,vea", "--profile", "profile.json")
    done = run("evaluate", *asked, "--out", "answers.zarr", cwd=stores)
    assert done.returncode == 0, done.stderr
    assert "Paired difference" in done.stdout
    assert open_answers(stores / "answers.zarr")["method"].values.tolist() == ["base", "vea"]
    refused(run("evaluate", *asked, "--alpha", "0.9", "--out", "answers.zarr", cwd=stores), "alpha", "0.5", "0.9")


def test_what_cannot_be_judged_is_refused(model: Path, stores: Path, tmp_path: Path) -> None:
    refused(run("analyze", "profile.zarr", "--profile", "profile.json", cwd=stores), "Profile was fitted on", "--allow-overlap")
    refused(run("analyze", "nowhere.zarr", cwd=stores), "nowhere.zarr")
    other = json.loads((stores / "profile.json").read_text())
    for key, value in {"model": "somebody/else", "prompt_order": "question-first"}.items():
        path = tmp_path / f"{key}.json"
        path.write_text(json.dumps({**other, "identity": {**other["identity"], key: value}}))
        refused(run("analyze", "test.zarr", "--profile", str(path), cwd=stores), value)
    (tmp_path / "broken.json").write_text("{}")
    refused(run("analyze", "test.zarr", "--profile", str(tmp_path / "broken.json"), cwd=stores), "broken.json")
    broken = tmp_path / "broken.zarr"
    shutil.copytree(stores / "test.zarr", broken)
    shutil.rmtree(broken / "trace" / "attention")
    refused(run("analyze", str(broken)), "broken.zarr")
    given = ("--model", str(model), "--benchmark", "digits", "--limit", "2", "--out", str(tmp_path / "x.zarr"))
    refused(run("evaluate", *given, "--alpha", "1.5"), "--alpha", "1.5")
    refused(run("evaluate", *given, "--methods", "base,magic"), "magic", "vea")
    refused(run("evaluate", *given, "--methods", "vea"), "profile")
    refused(run("trace", "--config", str(tmp_path / "no.toml"), *given), "no.toml")
    refused(run("analyze", "test.zarr", "--out", "profile.json", cwd=stores), "profile.json", "folder")
    refused(run("trace", *given, "--colour", "red"), "--colour")
    assert not (tmp_path / "x.zarr").exists()


def test_an_unfinished_store_says_how_to_go_on(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "half.zarr"
    half = ("--model", str(model), "--benchmark", "digits", "--limit", "6", "--batch-size", "2", "--out", str(out))
    assert run("trace", *half, "--shard", "0/2").returncode == 0
    unfinished = run("analyze", str(out))
    refused(unfinished, "4 of 6", f"interp trace --model {model}")
    assert "--shard" not in unfinished.stderr  # the same shard again would not finish it
    assert run("trace", *half, "--shard", "1/2").returncode == 0
    assert open_trace(out).sizes["sample"] == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "no/such-model", "--benchmark", "digits"), ("no/such-model",)),
        (("--model", "demo/nobody", "--benchmark", "digits"), ("demo/nobody",)),
        (("--model", "MODEL", "--benchmark", "nothing"), ("'nothing'", "digits")),
        (("--model", "MODEL", "--benchmark", "digits", "--split", "dev"), ("'dev'", "train")),
        (("--model", "MODEL", "--benchmark", "digits", "--limit", "0"), ("0",)),
        (("--model", "MODEL", "--benchmark", "digits", "--limit", "2", "--queries", "all"), ("'all'", "question")),
    ],
)
def test_bad_names_get_one_sentence(model: Path, tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    given = [str(model) if a == "MODEL" else a for a in arguments]
    refused(run("trace", *given, "--out", str(tmp_path / "x.zarr")), *words)
    assert not (tmp_path / "x.zarr").exists()


def test_a_text_only_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    config = LlamaConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32)
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_vlm().processor.tokenizer.save_pretrained(folder)
    refused(run("trace", "--model", str(folder), "--benchmark", "digits", "--out", str(tmp_path / "x.zarr")), "text-only")
    assert not (tmp_path / "x.zarr").exists()


@pytest.mark.parametrize("case", ["missing", "corrupt", "no reference", "box outside"])
def test_bad_samples_get_one_sentence(model: Path, tmp_path: Path, case: str) -> None:
    box = [200, 200, 300, 300] if case == "box outside" else [4, 4, 20, 20]
    options = visual_cot(tmp_path, box, "" if case == "no reference" else "STOP", b"not a picture" if case == "corrupt" else None)
    if case == "missing":
        (tmp_path / "images" / "textvqa" / "a.png").unlink()
    result = run("trace", "--model", str(model), "--benchmark", "visual-cot", *options, "--out", str(tmp_path / "x.zarr"))
    refused(result, {"missing": "a.png", "corrupt": "a.png", "no reference": "reference", "box outside": "outside its 64 x 48 image"}[case])
    assert not (tmp_path / "x.zarr").exists()


def test_organisms_train_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    refused(run("organisms", "train", "nobody", cwd=tmp_path), "'nobody'", "llava")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep")
    refused(run("organisms", "train", "llava", "--out", "mine", cwd=tmp_path), "'mine'", "--out")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "keep"


@pytest.mark.parametrize("command", [("demo",), ("trace",), ("profile",), ("analyze",), ("evaluate",), ("organisms", "train")])
def test_every_command_has_help_with_an_example(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.returncode == 0
    assert f"interp {' '.join(command)}" in result.stdout
