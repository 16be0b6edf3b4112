"""An artefact on disk: its table, figures, data and provenance; and whether what is there is still what would be made."""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import plotly.offline

import interp
from experiments.artefacts.context import Context, provenance_of, slug
from experiments.artefacts.interface import STATEMENT, Artefact, Result
from experiments.artefacts.markdown import cell, rows_of
from experiments.artefacts.page import figure_page
from experiments.artefacts.storing import store
from interp import plots

PROVENANCE = "provenance.json"
_LIBRARY = "plotly.min.js"
_LONGEST = 80  # characters of a folder's name

_FRAMEWORK = ("experiments.artefacts.interface", "experiments.artefacts.context", "experiments.artefacts.files")


def folder_of(artefact: Artefact, contexts: Sequence[Context], out: Path) -> Path:
    """Where an artefact of these models lies."""
    joined = "+".join(slug(context.model) for context in contexts)
    if len(joined) > _LONGEST:
        joined = f"{len(contexts)}-models-{hashlib.sha256(joined.encode()).hexdigest()[:8]}"
    return out / artefact.name / joined


def fingerprint(artefact: Artefact, contexts: Sequence[Context]) -> str:
    """Of everything a result follows from: settings, models and their revisions, the artefact's code, and the version of interp."""
    identity = {"artefact": artefact.name, "models": [c.identity for c in contexts], "code": _code(artefact), "interp": interp.__version__}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def finished(folder: Path, key: str) -> dict[str, Any] | None:
    """The provenance of what is there, if it is complete and of this fingerprint."""
    try:
        known = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(known, dict) and known.get("fingerprint") == key and all((folder / name).exists() for name in known["files"])
    return known if whole else None


def spent(folder: Path, contexts: Sequence[Context]) -> float:
    """Seconds that went into what is there, if it is of these settings: made anew from the same stores, it takes only the rest."""
    try:
        known = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        return float(known["seconds"]) if known["settings"] == [context.identity for context in contexts] else 0.0
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def write(artefact: Artefact, contexts: Sequence[Context], result: Result, folder: Path, key: str, seconds: float) -> list[str]:
    """Write everything; provenance comes last, so that a folder without it is unfinished. Returns notes for the user."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROVENANCE).unlink(missing_ok=True)
    about = [context.described(result.n, result.part) for context in contexts]
    result.table.to_csv(folder / "table.csv", index=False, lineterminator="\n")
    (folder / "table.md").write_text(_page(artefact, result, about), encoding="utf-8")
    library = folder.parents[1] / _LIBRARY
    if not library.exists():
        library.write_text(plotly.offline.get_plotlyjs(), encoding="utf-8")
    figures = {"figure": result.figure, **result.figures}
    for name, figure in figures.items():
        (folder / f"{name}.html").write_text(figure_page(artefact, result, about, figure, f"../../{_LIBRARY}"), encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        drawn, notes = plots.save(figures, scratch)
        pictures = [path for path in drawn if path.suffix == ".png"]
        for path in pictures:
            shutil.move(path, folder / path.name)
    store(result.data, folder / "data.zarr")
    names = ["table.csv", "table.md", *(f"{name}.html" for name in figures), *(path.name for path in pictures), "data.zarr"]
    _forget_others(folder, {*names, PROVENANCE})
    known = {
        "artefact": artefact.name,
        "title": artefact.title,
        "says": artefact.says,
        "models": [context.model for context in contexts],
        "about": about,
        "sentence": result.sentence,
        "beside": [[b.paper.what, b.ours, b.paper.value, b.paper.of, b.paper.where, b.paper.source] for b in result.beside],
        "apart": result.apart,
        "n": str(result.n),
        "intervals": result.intervals,
        "settings": [context.identity for context in contexts],
        "trace": provenance_of(result.data),
        "fingerprint": key,
        "seconds": round(seconds, 1),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "statement": STATEMENT,
        "files": names,
    }
    (folder / PROVENANCE).write_text(json.dumps(known, indent=1), encoding="utf-8")
    return notes


def _page(artefact: Artefact, result: Result, about: Sequence[str]) -> str:
    """The table as Markdown, with what it says and where it comes from."""
    lines = [f"# {artefact.title}", "", artefact.says, "", f"**{cell(result.sentence)}**", ""]
    lines += [f"- {cell(line)}" for line in about]
    lines += ["", *rows_of(result.table), "", *([result.intervals, ""] if result.intervals else []), STATEMENT]
    if result.beside:
        columns = ["quantity", "ours", "the paper's", "of", "where", "source"]
        rows = [[b.paper.what, b.ours, b.paper.value, b.paper.of, b.paper.where, b.paper.source] for b in result.beside]
        lines += ["", "## Beside the paper", "", *rows_of(pd.DataFrame(rows, columns=columns))]
    if result.apart:
        lines += ["", cell(result.apart)]
    return "\n".join(lines) + "\n"


def _forget_others(folder: Path, kept: set[str]) -> None:
    """Remove pictures that an earlier version of the artefact wrote, so that no page shows them."""
    for path in folder.iterdir():
        if path.name not in kept and path.suffix in {".png", ".html"}:
            path.unlink()


def _code(artefact: Artefact) -> str:
    """Digest of the artefact's module, and of the modules of this package that it takes names from."""
    module = sys.modules[artefact.compute.__module__]
    names = {module.__name__} | {_home(value) for value in vars(module).values()}
    top = module.__name__.split(".")[0]
    digest = hashlib.sha256()
    for name in sorted(name for name in names if name.split(".")[0] == top and name not in _FRAMEWORK):
        digest.update(inspect.getsource(sys.modules[name]).encode())
    return digest.hexdigest()[:16]


def _home(value: Any) -> str:
    return value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", "") or "")


def known_artefacts(out: Path) -> list[Mapping[str, Any]]:
    """Provenance of everything finished below a folder, with where it lies under ``folder``."""
    found = []
    for path in sorted(out.glob(f"*/*/{PROVENANCE}")):
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if isinstance(known, dict) and {"artefact", "sentence", "files"} <= set(known):
            found.append({**known, "folder": path.parent.relative_to(out).as_posix()})
    return found
