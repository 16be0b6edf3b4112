"""Right or wrong as the authors score it (package qa-metrics): containment called exact match, and an F1 over sets of words.

Their F1 also reduces words to lemmas by WordNet, which has to be downloaded; that part is left out.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

ABSTENTION = "I cannot answer based on the given image."  # what their prompt asks for where the picture holds no answer

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def plain(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 where a reference, however short, occurs anywhere inside the answer."""
    return float(any(plain(reference) in plain(prediction) for reference in references))


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over words that count once each."""
    return max((_f1(set(plain(prediction).split()), set(plain(reference).split())) for reference in references), default=0.0)


def _f1(said: set[str], wanted: set[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    return 2 * len(said & wanted) / (len(said) + len(wanted))
