"""Certifies a checkpoint before work is spent on it: `check` asks whether what this package assumes of a model holds of this one.

Nothing is downloaded and nothing about the model is changed: the pictures are drawn here, and what is switched or hooked is put back.
"""

from __future__ import annotations

from interp.capture.labels import provenance_of_model, versions
from interp.capture.progress import track
from interp.certificate.checks import CHECKS, NEEDS
from interp.certificate.subject import NotJudged, Subject, sentence
from interp.certificate.verdict import Certificate, Check, matrix
from interp.vlm import VLM

__all__ = ["Certificate", "Check", "check", "matrix"]


def check(vlm: VLM, *, seed: int = 0, progress: bool | None = None) -> Certificate:
    """Examine a model: whether what the rest of the package assumes holds of this checkpoint.

    prompt
        The question's tokens are found; which prompt orders the chat template serves.
    tokens
        Square, wide and tall pictures become as many tokens as the family's geometry says.
    marker
        With the vision tower's mixing silenced, a marker drawn on a plain picture moves the tokens whose boxes hold it, and no other.
        The strongest token of the tower as it is is reported, not judged: a tower may mix so strongly that it is elsewhere.
    two pictures
        The same for two pictures in one prompt; skipped where the template refuses them.
    rows
        Attention rows sum to one, in a sliding layer within its window.
    values
        Rows times values are the model's own attention output.
    edit
        Silencing a head changes the logits, and without the edit they are back exactly.
    padding
        Rows of a left-padded batch are those of each prompt alone.
    answers
        A greedy answer is the same when another prompt comes between.

    The cost is some ten prefills, three answers of eight tokens, and the vision tower alone on some fifty small pictures.

    Parameters
    ----------
    vlm
        The model. It is left as it was.
    seed
        Of the pictures, and of where markers are drawn.
    progress
        Force a progress bar on or off; by default it shows in terminals and notebooks.

    Returns
    -------
    Certificate
        A check whose code raises is a failure with the error's sentence, never an exception.
    """
    vlm.refuse_edits("check")
    subject = Subject(vlm, seed)
    checks: dict[str, Check] = {}
    for name in track(CHECKS, len(CHECKS), "checking", progress):
        needed = checks.get(NEEDS.get(name, ""))
        if needed is not None and needed.outcome == "fail":
            checks[name] = Check(name, "skip", reason=f"not judged: {needed.name} failed")
        else:
            checks[name] = _judged(name, subject)
    provenance = {**provenance_of_model(vlm), **{f"version_{name}": number for name, number in versions().items()}}
    return Certificate(vlm.name, vlm.family.model_type, provenance, tuple(checks.values()))


def _judged(name: str, subject: Subject) -> Check:
    try:
        found = CHECKS[name](subject)
    except NotJudged as reason:
        return Check(name, "skip", reason=f"not judged: {reason}")
    except Exception as error:  # a model that is not known yet can fail in any way, and the other checks still tell something
        return Check(name, "fail", reason=sentence(error))
    return Check(name, "fail" if found.fault else "pass", found.text, found.numbers, found.fault)
