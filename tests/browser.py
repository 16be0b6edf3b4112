"""Figures in a real browser: one start of a headless Chrome or Chromium draws all of them and reports every text's bounds."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from interp.plots.files import BROWSERS

VIEWPORT = (1280, 720)

_MEASURE = """
function finite(values) { return values.some(v => v !== null && v !== "" && isFinite(v)); }
function flat(rows) { return Array.from(rows, r => ArrayBuffer.isView(r) || Array.isArray(r) ? Array.from(r) : r).flat(); }
function drawn(trace) {
  if (trace.type === "image") return Boolean(trace.source);
  const parts = trace.type === "heatmap" ? [trace.z] : [trace.x, trace.y];
  return parts.every(v => v && finite(flat(v)));
}
function measure(figure) {
  const frame = figure.getBoundingClientRect();
  const place = r => [r.left - frame.left, r.top - frame.top, r.right - frame.left, r.bottom - frame.top];
  const texts = Array.from(figure.querySelectorAll("svg.main-svg text"))
    .map(e => ({text: e.textContent, box: place(e.getBoundingClientRect())}))
    .filter(t => t.text.trim() && t.box[2] > t.box[0]);
  const panels = {};
  for (const name of Object.keys(figure._fullLayout._plots)) panels[name] = false;
  for (const trace of figure._fullData) {
    const name = (trace.xaxis || "x") + (trace.yaxis || "y");
    panels[name] = panels[name] || (trace.visible === true && drawn(trace));
  }
  return {size: [frame.width, frame.height], texts: texts, panels: panels};
}
const faults = [];
window.onerror = message => { faults.push(String(message)); };
function report() {
  const result = {faults: faults, figures: {}};
  for (const figure of document.querySelectorAll(".plotly-graph-div")) result.figures[figure.id] = measure(figure);
  document.body.textContent = "<<<" + JSON.stringify(result) + ">>>";
}
"""


@dataclass(frozen=True)
class Drawn:
    """One figure as the browser drew it: `size` (width, height), `texts` with their boxes (x0, y0, x1, y1), panels with their data."""

    size: tuple[float, float]
    texts: list[tuple[str, tuple[float, float, float, float]]]
    panels: dict[str, bool]

    def faults(self) -> list[str]:
        """What is wrong with it, in words: texts outside the figure, the figure outside the viewport, texts on texts, empty panels."""
        (width, height), found = self.size, []
        if width > VIEWPORT[0] or height > VIEWPORT[1]:
            found.append(f"figure of {width:.0f} x {height:.0f} is larger than the viewport")
        for text, (x0, y0, x1, y1) in self.texts:
            if x0 < -_ROUNDING or y0 < -_ROUNDING or x1 > width + _ROUNDING or y1 > height + _ROUNDING:
                found.append(f"text {text[:60]!r} reaches outside the figure: {x0:.0f}, {y0:.0f}, {x1:.0f}, {y1:.0f}")
        for k, (text, box) in enumerate(self.texts):
            found += [f"texts {text[:40]!r} and {other[:40]!r} overlap" for other, there in self.texts[k + 1 :] if _overlap(box, there)]
        found += [f"panel {name} has no finite data" for name, data in self.panels.items() if not data]
        return [*found, *([] if self.panels and self.texts else ["nothing was drawn"])]


_ROUNDING, _TOUCH = 0.5, 2.0  # pixels: text boxes contain the font's line spacing, which may touch


def find() -> str | None:
    """The command of a Chrome or Chromium, if there is one."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def draw(figures: Mapping[str, go.Figure], folder: Path, browser: str) -> dict[str, Drawn]:
    """All figures on one page in one run of `browser`, without network; files go to `folder`."""
    (folder / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
    count = "window.ready = (window.ready || 0) + 1; if (window.ready === window.expected) report();"
    parts = [figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, post_script=count) for name, figure in figures.items()]
    page = folder / "figures.html"
    page.write_text(
        f'<!DOCTYPE html><html><head><meta charset="utf-8"><script>{_MEASURE}window.expected = {len(parts)};</script>'
        f'<script src="plotly.min.js"></script></head><body style="margin:0">{"".join(parts)}</body></html>',
        encoding="utf-8",
    )
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run"]
    size = f"--window-size={VIEWPORT[0]},{VIEWPORT[1]}"
    done = subprocess.run(
        [browser, *flags, size, f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=60000", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = re.search(r"&lt;&lt;&lt;(.*)&gt;&gt;&gt;", done.stdout, re.DOTALL)
    assert found, f"{browser} drew nothing (status {done.returncode}): {done.stderr[-2000:]}"
    result = json.loads(html.unescape(found.group(1)))
    assert result["faults"] == [], result["faults"]
    return {
        name: Drawn(tuple(each["size"]), [(text["text"], tuple(text["box"])) for text in each["texts"]], each["panels"])
        for name, each in result["figures"].items()
    }


def _overlap(first: tuple[float, float, float, float], second: tuple[float, float, float, float]) -> bool:
    return min(first[2], second[2]) - max(first[0], second[0]) > _TOUCH and min(first[3], second[3]) - max(first[1], second[1]) > _TOUCH
