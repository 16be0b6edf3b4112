"""Runs the notebooks: each `N_name.py` here (jupytext, py:percent) becomes the executed `N_name.ipynb` beside it.

    python notebooks/execute.py [NAME ...] [--out FOLDER] [--no-pictures]

Edit the `.py`; this writes the `.ipynb`. Every notebook runs in a new kernel and an empty working folder, and stops at its first error.
Beside every plotly figure a PNG is kept, for viewers that show no JavaScript (needs Chrome or Chromium; without pictures by choice only).
INTERP_NOTEBOOK_N in the environment gives another number of questions than the notebook's own.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import cyclopts
import jupytext
import nbformat
import plotly.graph_objects as go
from nbclient import NotebookClient
from traitlets.config import Config

from interp import plots

FOLDER = Path(__file__).resolve().parent
FIGURE = "application/vnd.plotly.v1+json"
HEAVY = 300_000  # bytes: a figure made of pictures, which would double the file for a few words under the pointer
# Progress bars would stay in the file; where no widgets are installed, tqdm warns before it is told to be quiet.
QUIET = {"PLOTLY_RENDERER": "plotly_mimetype", "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore:IProgress not found", "COLUMNS": "110"}


def main(*names: str, out: Path = FOLDER, pictures: bool = True) -> None:
    """Execute the notebooks of these names (without suffix), by default all of them, and write them into folder `out`."""
    known = sorted(path.stem for path in FOLDER.glob("[0-9]_*.py"))
    if unknown := sorted(set(names) - set(known)):
        raise SystemExit(f"Notebook {unknown[0]!r} is unknown; use some of {', '.join(known)}.")
    out.mkdir(parents=True, exist_ok=True)
    for name in names or known:
        notebook = executed(FOLDER / f"{name}.py")
        if pictures:
            add_pictures(notebook)
        nbformat.validate(notebook)
        nbformat.write(notebook, out / f"{name}.ipynb")
        print(f"wrote {out / name}.ipynb")


def paired(path: Path) -> Any:
    """The notebook that a `.py` stands for, without outputs."""
    notebook = jupytext.read(path)
    for place, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{place}"  # a random id would change the file at every run
    return notebook


def executed(path: Path) -> Any:
    """The same with outputs.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        A cell raised.
    """
    notebook = paired(path)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "work").mkdir()
        # sockets in a folder of this user: a port could be listened to, or taken by another kernel that starts at the same moment
        sockets = Config({"ConnectionFileMixin": {"transport": "ipc", "ip": f"{folder}/kernel"}})
        where = {"resources": {"metadata": {"path": f"{folder}/work"}}, "config": sockets}
        client = NotebookClient(notebook, timeout=None, startup_timeout=300, kernel_name="python3", record_timing=False, **where)
        client.execute(env=os.environ | QUIET)
    return notebook


def add_pictures(notebook: Any) -> None:
    """Keep a PNG beside every plotly figure, twice as many pixels a side as the figure is large; of a figure made of pictures, it alone."""
    shown = [output.data for cell in notebook.cells for output in cell.get("outputs", []) if FIGURE in output.get("data", {})]
    with tempfile.TemporaryDirectory() as folder:
        drawings = {
            f"figure-{place}": go.Figure({"data": data[FIGURE]["data"], "layout": data[FIGURE]["layout"]})
            for place, data in enumerate(shown)
        }
        _, notes = plots.save(drawings, folder)
        if notes:
            raise SystemExit(f"The figures have no PNG: {notes[0]}")
        for name, data in zip(drawings, shown, strict=True):
            data["image/png"] = base64.b64encode((Path(folder) / f"{name}.png").read_bytes()).decode("ascii")
            if len(json.dumps(data[FIGURE])) > HEAVY:
                del data[FIGURE]


if __name__ == "__main__":
    cyclopts.run(main)
