"""Every figure in a real browser: all texts inside it and apart from each other, data in every panel; and the checker finds faults."""

from __future__ import annotations

import re
import subprocess

import plotly.graph_objects as go
import pytest
from browser import Drawn, draw, find
from drawings import FIGURES
from plotly.subplots import make_subplots


def _broken() -> dict[str, go.Figure]:
    """Figures with one fault each."""
    base = go.Figure(go.Scatter(x=[0, 1], y=[0, 1])).update_layout(width=500, height=400)
    far = go.Figure(base).add_annotation(text="far", xref="paper", yref="paper", x=1.5, y=0.5, showarrow=False)
    long = go.Figure(base).update_layout(title_text="a title that is far too long " * 5)
    twice = go.Figure(base)
    for text in ("one text", "another text"):
        twice.add_annotation(text=text, x=0.5, y=0.5, showarrow=False)
    empty = make_subplots(rows=1, cols=2).update_layout(width=500, height=400)
    empty.add_trace(go.Scatter(x=[0, 1], y=[0, 1]), row=1, col=1)
    empty.add_trace(go.Scatter(x=[0, 1], y=[None, None]), row=1, col=2)
    hole = go.Figure(go.Heatmap(z=[[None, None], [None, None]])).update_layout(width=500, height=400)
    return {
        "sound": base,
        "far": far,
        "long": long,
        "twice": twice,
        "empty": empty,
        "hole": hole,
        "large": go.Figure(base).update_layout(width=1900),
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Drawn]:
    browser = find()
    if browser is None:
        pytest.skip("no Chrome or Chromium was found; install one to check the figures in it")
    folder = tmp_path_factory.mktemp("browser")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'trial'}", "--dump-dom", "data:text/html,alive"]
    trial = subprocess.run([browser, *flags], capture_output=True, text=True, timeout=120, check=False)
    if "alive" not in trial.stdout:
        pytest.skip(f"{browser} is there but does not start (status {trial.returncode}), so the figures are not checked in it")
    figures = {name: make() for name, make in FIGURES.items()}
    return draw({**figures, **{f"broken-{name}": figure for name, figure in _broken().items()}}, folder, browser)


@pytest.mark.parametrize("name", FIGURES)
def test_figure_shows_all_its_texts_and_data(drawn: dict[str, Drawn], name: str) -> None:
    assert drawn[name].faults() == []


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("sound", None),
        ("far", "'far' reaches outside"),
        ("long", "'a title that is far too long .* reaches outside"),
        ("twice", "'one text' and 'another text' overlap"),
        ("empty", "panel x2y2 has no finite data"),
        ("hole", "panel xy has no finite data"),
        ("large", "larger than the viewport"),
    ],
)
def test_the_checker_finds_each_fault_and_no_other(drawn: dict[str, Drawn], name: str, fault: str | None) -> None:
    found = drawn[f"broken-{name}"].faults()
    assert len(found) == (fault is not None), found
    assert fault is None or re.search(fault, found[0]), found


def test_markup_of_others_is_shown_as_it_is(drawn: dict[str, Drawn]) -> None:
    """Tags, entities and dollars of a question reach the screen as characters."""
    for name in ("maps-markup", "before-after-markup"):
        texts = " ".join(text.replace("\u00a0", " ") for text, _ in drawn[name].texts)
        assert "What <b>is</b> the price &amp; sum of $5$ and <a href='x'>$7$</a>" in texts
