"""The demo: the whole path in small, its figures and tables against what is in its stores."""

from __future__ import annotations

import csv
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from interp.capture import open_trace
from interp.demo import Demo, run_demo
from interp.errors import InterpError
from interp.methods import open_answers
from interp.settings import METHODS

small = partial(run_demo, "demo/llava", n_profile=30, n_train=150, progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def found(folder: Path) -> Demo:
    return small(30, folder)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_it_names_is_there(found: Demo, folder: Path) -> None:
    assert all(path.exists() for path in found.files)
    names = {path.name for path in found.files}
    figures = {"attention_shift", "evidence_by_correctness", "head_grounding", "disconnect_table", "methods", "accuracy_by_quality"}
    assert {f"{name}.html" for name in figures | {"layer_maps", "before_after"}} <= names
    assert any("PNG" in note for note in found.notes) != ("methods.png" in names)  # pictures, or a word on why there are none


def test_tables_say_what_the_stores_hold(found: Demo, folder: Path) -> None:
    answers, ds = open_answers(folder / "answers.zarr"), open_trace(folder / "test.zarr")
    said = {row["method"]: float(row["mean"]) for row in rows(folder / "methods.csv")}
    for k, method in enumerate(METHODS):
        assert said[method] == pytest.approx(float(answers["exact_match"].values[k].mean()))
    assert answers["prediction"].values[0].tolist() == ds["prediction"].values.tolist()  # base asks as the trace asks
    judged = ds["visibility"].values.astype(object) == "visible"
    cells = [row for row in rows(folder / "disconnect.csv") if row["null"] == "placed"]
    right = sum(float(row["count"]) for row in cells if row["correct"] == "correct")
    assert right == (ds["exact_match"].values[judged] == 1).sum()
    assert sum(float(row["count"]) for row in cells) == judged.sum()
    console = Console(width=120, file=StringIO())
    console.print(*found.tables)
    printed = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "Disconnect" in printed and f"{said['vea']:.3f}" in printed


def test_the_same_run_again_is_read_and_another_refused(found: Demo, folder: Path) -> None:
    again = small(30, folder)
    np.testing.assert_array_equal(again.compared.scores["mean"].values, found.compared.scores["mean"].values)
    with pytest.raises(InterpError, match="samples"):
        small(20, folder)


def test_the_pictures_are_of_the_samples_it_says(found: Demo, folder: Path) -> None:
    """Before and after: the first wrong answer that vea mends, else a correct one; found here by going through the answers."""
    answers = open_answers(folder / "answers.zarr").load()
    base, vea = (answers.sel({"method": name}) for name in ("base", "vea"))
    scores = list(zip(base["exact_match"].values, vea["exact_match"].values, answers["knob_absent"].values, strict=True))
    mended = [k for k, (before, after, absent) in enumerate(scores) if not absent and before == 0 and after == 1]
    right = [k for k, (before, _, absent) in enumerate(scores) if not absent and before == 1]
    k = [*mended, *right][0]
    shown = (folder / "before_after.html").read_text(encoding="utf-8")
    assert str(answers["question"].values[k]) in shown
    assert f"Answer: {vea['prediction'].values[k]}" in shown and f"Answer: {base['prediction'].values[k]}" in shown
    quality = {k: float(answers["profiled_auroc"][k]) for k in right if np.isfinite(answers["profiled_auroc"][k])}
    middle = float(np.median(list(quality.values())))
    typical = min(quality, key=lambda k: abs(quality[k] - middle))
    assert str(answers["question"].values[typical]) in (folder / "layer_maps.html").read_text(encoding="utf-8")
