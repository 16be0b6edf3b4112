"""The demo: the whole path in small, its figures and tables against what is in its stores."""

from __future__ import annotations

import csv
import json
import weakref
from collections.abc import Callable
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from rich.console import Console

import interp.demo
from interp.capture import open_trace
from interp.cli import app
from interp.demo import Demo, SideBySide, run_all, run_demo
from interp.errors import InterpError
from interp.loading import shipped
from interp.methods import open_answers
from interp.settings import METHODS

small = partial(run_demo, "demo/llava", n_profile=30, n_train=150, progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "llava"


@pytest.fixture(scope="module")
def found(folder: Path) -> Demo:
    return small(30, folder)


class Second(NamedTuple):
    """A second run: what it gave, whether its model was gone from memory by then, and in what order it did what."""

    done: SideBySide
    again: Demo
    gone: bool
    log: list[str]


@pytest.fixture(scope="module")
def second(found: Demo, folder: Path) -> Second:
    """The finished run once more, as the only one of several."""
    held: list[weakref.ref[object]] = []
    given: list[Demo] = []
    log: list[str] = []
    load, run = interp.demo.load_vlm, interp.demo.run_demo

    def loaded(name: str) -> object:
        held.append(weakref.ref(vlm := load(name)))
        return vlm

    def ran(model: str, n: int, out: Path, **options: Any) -> Demo:
        keep = options.pop("after_step")

        def step() -> None:
            log.append("step")
            keep()

        given.append(run(model, n, out, after_step=step, **options))
        return given[-1]

    def logged(name: str) -> Any:
        function = getattr(interp.demo, name)
        return lambda *arguments, **options: (log.append(name), function(*arguments, **options))[1]

    (folder / "seconds.json").write_text('{"seconds": 12.5, "finished": true}')
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("interp.demo.load_vlm", loaded)
        patched.setattr("interp.demo.run_demo", ran)
        for name in ("trace", "profile_layers", "probed", "evaluate"):
            patched.setattr(f"interp.demo.{name}", logged(name))
        done = run_all(["demo/llava"], 30, folder.parent, n_profile=30, n_train=150, progress=False)
    assert len(held) == 1
    return Second(done, given[0], held[0]() is None, log)


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


def test_the_same_run_again_is_read_and_another_refused(found: Demo, second: Second, folder: Path) -> None:
    np.testing.assert_array_equal(second.again.compared.scores["mean"].values, found.compared.scores["mean"].values)
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


def test_models_side_by_side_say_what_their_folders_hold(second: Second, folder: Path) -> None:
    done = second.done
    assert all(path.exists() for path in done.files)
    assert {"across_models.csv", "across_models.md", "across_models.html", "llava"} <= {path.name for path in done.files}
    said = {row["quantity"]: row for row in rows(folder.parent / "across_models.csv")}
    methods = {row["method"]: float(row["mean"]) for row in rows(folder / "methods.csv")}
    assert float(said["vea less inst"]["mean"]) == pytest.approx(methods["vea"] - methods["inst"])
    seen = next(r for r in rows(folder / "disconnect_seen.csv") if (r["null"], r["group"]) == ("placed", "wrong"))
    assert float(said["seen, wrong, placed"]["mean"]) == pytest.approx(float(seen["seen_share"]))
    shown = (folder.parent / "across_models.md").read_text(encoding="utf-8")
    assert done.markdown().splitlines()[2] in shown
    card = json.loads((Path(interp.demo.__file__).parent / "organisms" / "llava" / "card.json").read_text(encoding="utf-8"))
    told = next(each["orders"]["question-first"] for each in card["assessments"] if each["split"] == "test")
    low, right, wrong = told["answers"]["answerable"]["lower"], told["grounding"]["correct"], told["grounding"]["wrong"]
    assert f"[{low:.2f}, " in shown.splitlines()[2] and f"n = {told['answers']['answerable']['n']} |" in shown.splitlines()[2]
    for group, figures in (("correct", right), ("wrong", wrong)):
        assert f"{group} {figures['auroc of profiled map']['mean']:.2f} [" in shown
    assert shown.splitlines()[0].count("question-first (model card)") == 2


def test_a_model_is_gone_before_the_next_and_finished_time_stands(second: Second) -> None:
    assert second.gone and second.done.seconds == {"demo/llava": 12.5}


def test_time_is_kept_after_every_step(second: Second, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process cannot write at its end, so what it wrote in between must stand."""
    assert second.log == ["trace", "profile_layers", "step", "trace", "step", "probed", "step", "evaluate", "step"]
    kept: list[dict[str, Any]] = []

    def run(_: str, __: int, out: Path, *, after_step: Callable[[], None], **___: object) -> None:
        for _____ in range(2):
            after_step()
            kept.append(json.loads((out / "seconds.json").read_text()))
        raise KeyboardInterrupt

    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "seconds.json").write_text('{"seconds": 100.0, "finished": false}')
    monkeypatch.setattr("interp.demo.run_demo", run)
    with pytest.raises(KeyboardInterrupt):
        run_all(["a/second"], 30, tmp_path)
    assert 100 < kept[0]["seconds"] < kept[1]["seconds"] < 200 and not kept[0]["finished"] and not kept[1]["finished"]
    assert [path.name for path in (tmp_path / "second").iterdir()] == ["seconds.json"]


def test_a_model_that_fails_costs_its_own_row_alone(found: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[SideBySide] = []

    def run(model: str, *_: object, **__: object) -> Demo:
        if model != "demo/llava":
            raise InterpError(f"{model} is broken; mend it.")
        return found

    def kept(*arguments: Any, **options: Any) -> SideBySide:
        given.append(run_all(*arguments, **options))
        return given[-1]

    monkeypatch.setattr("interp.demo.run_demo", run)
    monkeypatch.setattr("interp.demo.shipped", lambda: ["demo/first", "demo/llava", "demo/third"])
    monkeypatch.setattr("interp.plots.files.BROWSERS", ())
    monkeypatch.setattr("interp.demo.run_all", kept)
    with pytest.raises(InterpError, match=r"demo/first \(demo/first is broken; mend it\); demo/third \(.*same command again") as refused:
        app(["demo", "--all", "--out", str(tmp_path)], exit_on_error=False)
    assert "demo/llava" not in str(refused.value)
    done = given[0]
    assert "demo/first: demo/first is broken; mend it." in done.notes and list(done.failed) == ["demo/first", "demo/third"]
    assert list(done.seconds) == ["demo/llava"] and done.table["model"].values.tolist() == ["demo/llava"]
    assert {row["model"] for row in rows(tmp_path / "across_models.csv")} == {"demo/llava"}
    assert {"across_models.csv", "across_models.md", "across_models.html", "llava"} == {path.name for path in done.files}
    assert all(path.exists() for path in done.files)
    assert json.loads((tmp_path / "third" / "seconds.json").read_text())["finished"] is False


def test_time_is_added_up_over_sittings_and_each_model_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "seconds.json").write_text('{"seconds": 100.0, "finished": false}')
    told: list[str] = []

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("interp.demo.run_demo", killed)
    with pytest.raises(KeyboardInterrupt):
        run_all(["a/second", "a/third"], 30, tmp_path, report=told.append)
    kept = json.loads((tmp_path / "second" / "seconds.json").read_text())
    assert 100 < kept["seconds"] < 200 and kept["finished"] is False
    assert told == ["a/second (1 of 2)"] and not (tmp_path / "third").exists()


def test_models_that_cannot_stand_side_by_side_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InterpError, match="a/one, b/one would be written into the same folder"):
        run_all(["a/one", "b/one"], 30, tmp_path)
    with pytest.raises(InterpError, match="No model was given"):
        run_all([], 30, tmp_path)
    with pytest.raises(InterpError, match="--all runs every model .* --model demo/llava"):
        app(["demo", "--all", "--model", "demo/llava", "--out", str(tmp_path / "x")], exit_on_error=False)
    assert not list(tmp_path.iterdir())


def test_all_is_every_model_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    organisms = Path(interp.demo.__file__).parent / "organisms"
    assert shipped() == sorted(f"demo/{path.name}" for path in organisms.iterdir() if (path / "config.json").exists())
    asked: list[str] = []

    def stopped(model: str, n: int, out: Path, **options: object) -> None:
        asked.extend([model, str(n), str(out), str(options["resume_command"])])
        raise InterpError("enough")

    monkeypatch.setattr("interp.demo.run_demo", stopped)
    with pytest.raises(InterpError, match=rf"Could not be run: {', '.join(shipped())} \(enough\)"):
        app(["demo", "--all", "--limit", "7", "--out", str(tmp_path)], exit_on_error=False)
    command = f"interp demo --all --limit 7 --out {tmp_path}"
    assert asked == [text for name in shipped() for text in (name, "7", str(tmp_path / name.removeprefix("demo/")), command)]
