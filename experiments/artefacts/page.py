"""Pages: one for each figure, and the index of all artefacts by model, ours beside the paper's. All text of others is escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from experiments.artefacts.interface import STATEMENT, Artefact, Result
from experiments.paper import TITLE

_STYLE = """
body { font: 15px/1.5 Helvetica, Arial, 'Liberation Sans', sans-serif; color: #222; max-width: 1160px; margin: 24px auto; padding: 0 16px }
h1 { font-size: 24px } h2 { font-size: 19px; margin-top: 40px; border-top: 1px solid #ddd; padding-top: 16px } h3 { font-size: 16px }
table { border-collapse: collapse; margin: 8px 0 } td, th { border: 1px solid #ddd; padding: 3px 9px; text-align: left }
.small { color: #555; font-size: 13px } .statement { background: #fff6e0; padding: 8px 12px; border-left: 4px solid #e69f00 }
img { max-width: 100%; height: auto; border: 1px solid #eee } .failed { color: #a33 }
"""
_COLUMNS = ("quantity", "ours", "the paper's", "of", "where", "source")


def figure_page(artefact: Artefact, result: Result, about: Sequence[str], figure: go.Figure, library: str) -> str:
    """One figure as a page of its own, with what it says; `library` is where plotly's script lies."""
    drawn = figure.to_html(full_html=False, include_plotlyjs=library)
    rows = [[b.paper.what, b.ours, b.paper.value, b.paper.of, b.paper.where, b.paper.source] for b in result.beside]
    parts = [f"<h1>{escape(artefact.title)}</h1>", f"<p>{escape(artefact.says)}</p>", f"<p><b>{escape(result.sentence)}</b></p>", drawn]
    parts += [f'<p class="small">{escape(line)}. {escape(result.intervals)}</p>' for line in about]
    parts += [_beside(rows, result.apart), _statement()]
    return _html(artefact.title, parts)


def index_page(found: Sequence[Mapping[str, Any]], order: Sequence[Artefact], failed: Sequence[str], seconds: float) -> str:
    """Every artefact found, by model.

    Parameters
    ----------
    found
        Provenance of the finished ones, with their ``folder``.
    order
        The artefacts, in the order to show them.
    failed
        Sentences on those that this run could not make.
    seconds
        Of this run.
    """
    names = [a.name for a in order] + sorted({str(k["artefact"]) for k in found} - {a.name for a in order})
    by_name: dict[str, list[Mapping[str, Any]]] = {name: [k for k in found if k["artefact"] == name] for name in names}
    models = list(dict.fromkeys(", ".join(k["models"]) for k in sorted(found, key=lambda k: (len(k["models"]), k["models"]))))
    total = sum(float(k["seconds"]) for k in found)
    parts = [
        f"<h1>{escape(TITLE)}: figures and tables, reproduced</h1>",
        _statement(),
        f"<p>{len(found)} results of {_plural(len({m for k in found for m in k['models']}), 'model')}. Making them took {_minutes(total)} "
        f"in all (work that several share counts for the first of them); the last run took {_minutes(seconds)}.</p>",
    ]
    parts += [f'<p class="failed">{escape(sentence)}</p>' for sentence in failed]
    parts.append(_matrix(by_name, models))
    for name, entries in by_name.items():
        if not entries:
            continue
        parts.append(
            f'<h2 id="{escape(name)}">{escape(name)}: {escape(str(entries[0]["title"]))}</h2><p>{escape(str(entries[0]["says"]))}</p>'
        )
        parts += [_entry(entry) for entry in entries]
    return _html("Reproduced", parts)


def _matrix(by_name: Mapping[str, list[Mapping[str, Any]]], models: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(model)}</th>" for model in models)
    rows = []
    for name, entries in by_name.items():
        of_model = {", ".join(e["models"]): e for e in entries}
        cells = "".join(
            f'<td><a href="#{escape(_anchor(of_model[m]))}">n = {escape(re.split("[,(]", str(of_model[m]["n"]))[0].strip())}</a></td>'
            if m in of_model
            else "<td></td>"
            for m in models
        )
        rows.append(f'<tr><td><a href="#{escape(name)}">{escape(name)}</a></td>{cells}</tr>')
    return f"<table><tr><th>artefact</th>{head}</tr>{''.join(rows)}</table>"


def _entry(known: Mapping[str, Any]) -> str:
    folder = str(known["folder"])
    files = [str(name) for name in known["files"]]
    links = ", ".join(f'<a href="{escape(folder)}/{escape(name)}">{escape(name)}</a>' for name in [*files, "provenance.json"])
    picture = f'<p><img alt="" src="{escape(folder)}/figure.png"></p>' if "figure.png" in files else ""
    about = "".join(f"{escape(str(line))}. " for line in known["about"])
    return (
        f'<h3 id="{escape(_anchor(known))}">{escape(", ".join(known["models"]))}</h3><p>{escape(str(known["sentence"]))}</p>{picture}'
        f"{_beside(known['beside'], str(known['apart']))}"
        f'<p class="small">{about}{escape(str(known.get("intervals", "")))} {_minutes(float(known["seconds"]))}. {links}</p>'
    )


def _beside(rows: Sequence[Sequence[Any]], apart: str) -> str:
    """Ours and the paper's, and why some of it is not there."""
    table = ""
    if rows:
        head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
        body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
        table = f"<table><tr>{head}</tr>{body}</table>"
    return table + (f'<p class="small">{escape(apart)}</p>' if apart else "")


def _anchor(known: Mapping[str, Any]) -> str:
    return str(known["folder"]).replace("/", "-")


def _statement() -> str:
    return f'<p class="statement">{escape(STATEMENT)}</p>'


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _html(title: str, parts: Sequence[str]) -> str:
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>'
