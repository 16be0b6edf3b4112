"""How a wrong answer fails: by refusing, by inventing, or by getting a part of it (paper, section A.4 of the failure cases).

The paper shows examples and gives no rule; these rules are ours, on text alone, normalised as exact match normalises it. The first that
fits a wrong answer (strict exact match 0):

1. *false rejection*: it holds the abstention sentence, though the question has an answer in the picture.
2. *hallucination*, by a prior: it is what the prior of the benchmark says (a knob).
3. *hallucination*, another candidate: it is the text of a region marked as anchor or distractor.
4. *partially correct*: it shares a word with a reference (token F1 above 0), so that it is incomplete or says more.
5. *hallucination*, unsupported: it shares no word with any reference.

An answer to a question that the picture does not answer (`knob_absent`) is *invented*. There is no evidence to attend to, so it is none of
the three failures and is counted apart. Whether the evidence was attended is another matter: see `interp.analysis.seen`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

import numpy as np
import xarray as xr

from interp.answers import contains, normalise, token_f1
from interp.errors import InterpError
from interp.prompts import ABSTENTION

FAILURES = ("false rejection", "hallucination", "partially correct")
FAILURE_KINDS = ("false rejection", "invented", "prior", "another candidate", "partially correct", "unsupported")

_FAILURE_OF = {"prior": "hallucination", "another candidate": "hallucination", "unsupported": "hallucination", "invented": ""}


def kind_of_failure(
    prediction: str, references: Sequence[str], *, absent: bool = False, prior: str | None = None, others: Collection[str] = ()
) -> str:
    """Which of `FAILURE_KINDS` a wrong answer is.

    Parameters
    ----------
    prediction, references
        The answer, and the accepted ones. Whether it is wrong is the caller's to know.
    absent
        The picture does not answer the question.
    prior
        What the question's prior would say, where it has one.
    others
        Texts of the other candidates in the picture.
    """
    if absent:
        return "invented"
    if contains(prediction, [ABSTENTION]):
        return "false rejection"
    said = _form(prediction)
    if prior is not None and said == _form(prior):
        return "prior"
    if said in {_form(other) for other in others}:
        return "another candidate"
    return "partially correct" if token_f1(prediction, references) > 0 else "unsupported"


def failures(ds: xr.Dataset, prior: str = "knob_prior_digit") -> xr.Dataset:
    """Every wrong answer of a trace by its failure.

    Parameters
    ----------
    ds
        A trace with answers.
    prior
        The coordinate that holds what a prior says, as a number (negative: no prior) or text (empty: none). A trace without it has none.

    Returns
    -------
    xr.Dataset
        Over `sample`: `kind`, one of `FAILURE_KINDS`, and `failure`, one of `FAILURES`; both are empty where the answer is right, and
        `failure` where it is invented.

    Raises
    ------
    InterpError
        The trace has no answers.
    """
    if "prediction" not in ds or "exact_match" not in ds:
        raise InterpError("The trace has no answers, so none can have failed; trace with answers.")
    n = ds.sizes["sample"]
    absent = ds["knob_absent"].values.astype(bool) if "knob_absent" in ds.variables else np.zeros(n, dtype=bool)
    priors = [_prior(value) for value in ds[prior].values.tolist()] if prior in ds.variables else [None] * n
    roles, texts = (ds[name].values.astype(object) for name in ("evidence_role", "evidence_text"))
    kinds = []
    for k, right in enumerate(ds["exact_match"].values == 1):
        others = {str(text) for role, text in zip(roles[k], texts[k], strict=True) if role in ("anchor", "distractor") and text}
        said, accepted = str(ds["prediction"].values[k]), json.loads(str(ds["references"].values[k]))
        kinds.append("" if right else kind_of_failure(said, accepted, absent=bool(absent[k]), prior=priors[k], others=others))
    text = np.dtypes.StringDType()
    classes = [_FAILURE_OF.get(kind, kind) for kind in kinds]
    return xr.Dataset(
        {
            "kind": ("sample", np.array(kinds, dtype=text), {"long_name": "what a wrong answer says"}),
            "failure": ("sample", np.array(classes, dtype=text), {"long_name": "failure of a wrong answer"}),
        },
        coords={"sample": ds["sample"], **{name: ds[name] for name in ("image_id", "visibility") if name in ds.coords}},
        attrs=ds.attrs,
    )


def _form(text: str) -> str:
    """The text as it is compared: normalised, or as it stands where that leaves nothing (an article, a sign)."""
    return normalise(text) or text.strip().lower()


def _prior(value: object) -> str | None:
    """What a prior says, from a number or a text."""
    if isinstance(value, float):
        return None if np.isnan(value) or value < 0 else str(int(value))
    if isinstance(value, int):
        return None if value < 0 else str(value)
    return str(value) or None
