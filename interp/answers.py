"""Right or wrong: an answer's text against its references, by the field's usual rules. Pure Python.

Every score takes ``(prediction, references)``, lies in [0, 1], and is 1 for a perfect answer; with several references the best counts,
except `vqa_accuracy`, which counts agreeing people.

Sources: exact match and F1 after SQuAD (arXiv 1606.05250, its normalisation); ANLS after arXiv 1905.13648 (threshold 0.5); VQA accuracy
after arXiv 1505.00468 (mean over the leave-one-out sets of ``min(1, matches / 3)``).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

Score = Callable[[str, Sequence[str]], float]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation + "\u2018\u2019\u201c\u201d")
_NUMBERS = {word: str(value) for value, word in enumerate("zero one two three four five six seven eight nine ten".split())} | {"none": "0"}
_ANLS_THRESHOLD = 0.5


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous white space (SQuAD)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 where the normalised answer equals a normalised reference, otherwise 0."""
    return float(normalise(prediction) in {normalise(reference) for reference in references})


def contains(prediction: str, references: Sequence[str]) -> float:
    """1 where the normalised answer contains a normalised reference as whole words, otherwise 0."""
    padded = f" {normalise(prediction)} "
    return float(any(f" {normalise(reference)} " in padded for reference in references if normalise(reference)))


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over normalised words, with their counts."""
    return max((_f1(normalise(prediction).split(), normalise(reference).split()) for reference in references), default=0.0)


def anls(prediction: str, references: Sequence[str]) -> float:
    """Normalised Levenshtein similarity, 0 where it is under 0.5. Lower case and outer white space do not count."""
    return max((_similarity(prediction.strip().lower(), reference.strip().lower()) for reference in references), default=0.0)


def vqa_accuracy(prediction: str, references: Sequence[str]) -> float:
    """Agreement with people: ``min(1, 0.3 m)`` for ten references of which m agree; a benchmark with fewer counts any match as full.

    Ten references are the original protocol, whose mean over leave-one-out sets has this closed form.
    """
    said = _vqa_form(prediction)
    matches = sum(_vqa_form(reference) == said for reference in references)
    return min(1.0, 0.3 * matches) if len(references) >= 10 else float(matches > 0)


SCORES: dict[str, Score] = {
    "exact_match": exact_match,
    "contains": contains,
    "token_f1": token_f1,
    "anls": anls,
    "vqa_accuracy": vqa_accuracy,
}


def _f1(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted))


def _similarity(said: str, wanted: str) -> float:
    if not said and not wanted:
        return 1.0
    similarity = 1.0 - _edit_distance(said, wanted) / max(len(said), len(wanted))
    return similarity if similarity >= _ANLS_THRESHOLD else 0.0


def _edit_distance(first: str, second: str) -> int:
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def _vqa_form(text: str) -> str:
    return " ".join(_NUMBERS.get(word, word) for word in normalise(text).split())
