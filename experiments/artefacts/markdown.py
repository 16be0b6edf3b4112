"""Tables as Markdown. Text of others cannot become markup."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def rows_of(table: pd.DataFrame) -> list[str]:
    """The lines of a table."""
    head = [f"| {' | '.join(cell(name) for name in table.columns)} |", "|" + "---|" * len(table.columns)]
    return [*head, *(f"| {' | '.join(cell(value) for value in row)} |" for row in table.itertuples(index=False))]


def cell(value: Any) -> str:
    """One cell: numbers to four digits, text on one line and without live Markdown or HTML."""
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.4g}"
    text = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    for mark in "\\`*_[]|":
        text = text.replace(mark, "\\" + mark)
    return text
