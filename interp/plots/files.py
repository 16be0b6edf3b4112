"""Figures as files: HTML always, PNG where a Chrome or Chromium is found."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

BROWSERS = ("google-chrome", "google-chrome-stable", "chromium", "chromium-browser", "chrome")


def save(figures: Mapping[str, go.Figure], folder: str | Path) -> tuple[list[Path], list[str]]:
    """Write every figure as ``NAME.html`` (with one ``plotly.min.js`` beside them) and, where a browser is found, ``NAME.png``.

    Returns
    -------
    files, notes
        What was written, and a sentence for the user where PNG files were not.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for name, figure in figures.items():
        files.append(target / f"{name}.html")
        figure.write_html(files[-1], include_plotlyjs="directory")
    if not any(shutil.which(browser) for browser in BROWSERS):
        return files, ["No Chrome or Chromium was found, so the figures are HTML only; install one for PNG files."]
    import plotly.io
    from kaleido.errors import KaleidoError

    drawn, pictures = list(figures.values()), [target / f"{name}.png" for name in figures]
    # Without sizes `write_images` draws every figure at 700 x 500, whatever its layout says, and texts overlap.
    sizes: dict[str, Any] = {side: [each.layout[side] for each in drawn] for side in ("width", "height")}
    try:
        plotly.io.write_images(drawn, [str(path) for path in pictures], scale=2, **sizes)  # one browser for all of them
    except (RuntimeError, ValueError, OSError, KaleidoError) as error:  # a browser that is there but cannot start
        return files, [
            f"PNG files could not be written ({(str(error) or type(error).__name__).splitlines()[0]}); the HTML files are complete."
        ]
    return files + pictures, []
