"""Text that others wrote, made fit for a figure: broken into lines of a width in pixels, shortened, and without live markup.

plotly renders some HTML tags, entities and ``$...$`` in every text it is given; questions, answers and model names must not trigger them.
"""

from __future__ import annotations

import html
import re
import unicodedata

_NARROW, _WIDE = frozenset("fijlrtI|!.,:;'`()[]{}/\\ -"), frozenset("mwMW@%")
_PART = re.compile(r"[^-/]*[-/]+|[^-/]+")
_SLACK = 1.06  # a fallback font may be wider than Helvetica, whose widths these are


def width(text: str, size: float) -> float:
    """Estimated width in pixels of one line of `text` in a sans-serif font of `size` pixels."""
    return sum(map(_em, text)) * size * _SLACK


def lines(text: str, room: float, size: float = 13, at_most: int | None = None) -> list[str]:
    """`text` broken into lines no wider than `room` pixels; what exceeds `at_most` lines is cut off with an ellipsis.

    White space counts once. A line may also end after a hyphen or slash, and within a word that is wider than a line.
    """
    made, line = [], ""
    for word in text.split():
        for k, part in enumerate(_PART.findall(word)):
            joined = f"{line} {part}" if line and k == 0 else line + part
            if width(joined, size) <= room:
                line = joined
                continue
            if line:
                made.append(line)
            *full, line = _broken(part, room, size)
            made += full
    made.append(line)
    if at_most is not None and len(made) > at_most:
        last = made[at_most - 1]
        while last and width(last + "…", size) > room:
            last = last[:-1]
        made = [*made[: at_most - 1], last.rstrip() + "…"]
    return made


def shown(text: str, room: float, size: float = 13, at_most: int | None = None) -> str:
    """`text` in lines for plotly: escaped, broken at `room` pixels, cut off after `at_most` lines."""
    return "<br>".join(plain(line) for line in lines(text, room, size, at_most))


def plain(text: str) -> str:
    """`text` such that plotly shows exactly its characters."""
    return html.escape(text, quote=False).replace("$", "&#36;")


def _broken(word: str, room: float, size: float) -> list[str]:
    parts = [""]
    for character in word:
        if parts[-1] and width(parts[-1] + character, size) > room:
            parts.append("")
        parts[-1] += character
    return parts


def _em(character: str) -> float:
    if character in _NARROW:
        return 0.34
    if character in _WIDE or unicodedata.east_asian_width(character) in "WF":
        return 1.0 if character != "w" else 0.75
    if unicodedata.combining(character):
        return 0.0
    return 0.7 if character.isupper() else 0.56
