"""The notebooks: each runs on a few questions, the two files of a pair are in step, and what is committed is whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("[0-9]_*.py"))
FEW = 25  # a number that nothing else in a notebook has
FIGURE = "application/vnd.plotly.v1+json"


def read(path: Path) -> Any:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def outputs(notebook: Any) -> Iterator[Any]:
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def texts(notebook: Any) -> str:
    """All that its outputs say in words."""
    said = [value for each in outputs(notebook) for kind, value in each.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join([*said, *(each["text"] for each in outputs(notebook) if each.output_type == "stream")])


def assert_ran_through(notebook: Any) -> None:
    """Every code cell was run, and none failed or warned."""
    assert [cell.source for cell in notebook.cells if cell.cell_type == "code" and cell.execution_count is None] == []
    assert [each for each in outputs(notebook) if each.output_type == "error" or each.get("name") == "stderr"] == []


def test_there_are_five() -> None:
    assert [name[0] for name in NAMES] == list("12345")
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_on_a_few_questions(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "execute.py"), name, "--out", str(tmp_path), "--no-pictures"]
    environment = os.environ | {"INTERP_NOTEBOOK_N": str(FEW)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=570, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    notebook = read(tmp_path / f"{name}.ipynb")
    assert_ran_through(notebook)
    figures = [json.dumps(each["data"][FIGURE], ensure_ascii=False) for each in outputs(notebook) if FIGURE in each.get("data", {})]
    assert len(figures) >= 3
    assert any(f"n = {FEW}" in said for said in (*figures, texts(notebook)))  # captions and texts tell how many questions it really was


@pytest.mark.parametrize("name", NAMES)
def test_the_pair_is_in_step(name: str) -> None:
    """Of an edited `.py`, the `.ipynb` is made anew: make notebooks."""
    cells = [[(c.cell_type, c.source, c.metadata.get("tags")) for c in each.cells] for each in map(_file(name), (".py", ".ipynb"))]
    assert cells[0] == cells[1]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_is_whole(name: str) -> None:
    notebook = _file(name)(".ipynb")
    assert_ran_through(notebook)
    shown = [each["data"] for each in outputs(notebook) if {FIGURE, "image/png"} & set(each.get("data", {}))]
    assert len(shown) >= 3
    assert all("image/png" in data for data in shown)  # viewers without JavaScript show these
    assert not any(place in texts(notebook) for place in (str(ROOT), str(Path.home()) + "/", "/tmp/"))


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is_no_evidence_of(name: str) -> None:
    opening = next(cell.source for cell in _file(name)(".py").cells if cell.cell_type == "markdown")
    assert "no evidence about released checkpoints" in " ".join(opening.split())


def _file(name: str) -> Any:
    def opened(suffix: str) -> Any:
        path = FOLDER / f"{name}{suffix}"
        return read(path) if suffix == ".ipynb" else jupytext.read(path)

    return opened
