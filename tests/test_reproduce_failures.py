"""How wrong answers fail: the rules, one by one and in their order, and on a trace."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from interp.analysis import FAILURE_KINDS, FAILURES, failures
from interp.analysis.failures import kind_of_failure
from interp.answers import exact_match
from interp.errors import InterpError
from interp.prompts import ABSTENTION
from interp.testing import traces

CASES = [
    # prediction, references, absent, prior, others, kind
    (ABSTENTION, ["7"], False, None, [], "false rejection"),
    ("Sorry, I cannot answer based on the given image", ["7"], False, None, [], "false rejection"),
    (ABSTENTION, ["7"], False, ABSTENTION, [ABSTENTION], "false rejection"),  # refusing goes before everything else
    ("4", ["7"], False, "4", ["4"], "prior"),  # also another candidate's, but the prior says it
    ("4", ["7"], False, "5", ["4", "2 3"], "another candidate"),
    ("7 2", ["7"], False, None, ["7 2"], "another candidate"),  # shares a word, but is what another card shows
    ("7 2", ["7"], False, None, [], "partially correct"),
    ("The 7", ["7 2", "9"], False, None, [], "partially correct"),
    ("2 7", ["7 2"], False, None, [], "partially correct"),  # all words, in another order
    ("9", ["7 2"], False, None, ["8"], "unsupported"),
    ("", ["7"], False, None, [""], "another candidate"),
    # texts are compared as exact match compares them
    (" 4.", ["7"], False, "4", [], "prior"),
    ("The Red One!", ["7"], False, "red one", ["RED ONE"], "prior"),
    ("2 3.", ["2"], False, None, ["2  3"], "another candidate"),
    ("Nine, nine", ["seven"], False, "4", ["nine nine"], "another candidate"),
    ("44", ["7"], False, "4", ["4 4"], "unsupported"),
    (".", ["7"], False, None, ["The", "?"], "unsupported"),  # nothing of either is left, which makes them no more alike
    ("a ", ["7"], False, None, ["A"], "another candidate"),
    ("9", [ABSTENTION], True, "9", ["9"], "invented"),
]


@pytest.mark.parametrize(("prediction", "references", "absent", "prior", "others", "kind"), CASES)
def test_the_first_rule_that_fits_decides(
    prediction: str, references: list[str], absent: bool, prior: str | None, others: list[str], kind: str
) -> None:
    assert kind_of_failure(prediction, references, absent=absent, prior=prior, others=others) == kind


words = st.lists(st.sampled_from("one two three nine 7 cannot".split()), min_size=1, max_size=4).map(" ".join)


@given(words, words, st.booleans(), st.none() | words, st.lists(words, max_size=2))
def test_every_wrong_answer_has_one_kind(said: str, reference: str, absent: bool, prior: str | None, others: list[str]) -> None:
    kind = kind_of_failure(said, [reference], absent=absent, prior=prior, others=others)
    assert kind in FAILURE_KINDS and (kind == "invented") == absent
    if kind == "partially correct":
        assert set(said.split()) & set(reference.split()) and said != prior and said not in others
    if kind == "unsupported" and exact_match(said, [reference]) == 0:
        assert not set(said.split()) & set(reference.split())


def planted() -> xr.Dataset:
    """A trace of six samples: right, refused, the prior's, another card's, a part, and an answer where none is."""
    ds = traces(n=6)
    said = ["seven", ABSTENTION, "4", "nine nine", "two seven", "3"]
    references = [["seven"], ["seven"], ["seven"], ["seven"], ["seven"], [ABSTENTION]]
    text = np.dtypes.StringDType()
    roles, texts = (np.full((6, 2), "", dtype=object) for _ in range(2))
    roles[:, 0], texts[:, 0], roles[3, 1], texts[3, 1] = "evidence", "seven", "distractor", "nine nine"
    dims = ("sample", "evidence")
    keep = ds.drop_dims("evidence")
    return keep.assign(
        prediction=("sample", np.array(said, dtype=text)),
        references=("sample", np.array([json.dumps(each) for each in references], dtype=text)),
        exact_match=("sample", np.array([1.0, 0, 0, 0, 0, 0])),
        evidence_role=(dims, roles.astype(text)),
        evidence_text=(dims, texts.astype(text)),
    ).assign_coords(knob_prior_digit=("sample", [-1, 4, 4, 4, -1, 3]), knob_absent=("sample", [False] * 5 + [True]))


def test_a_trace_s_wrong_answers_are_classed() -> None:
    found = failures(planted())
    assert found["kind"].values.tolist() == ["", "false rejection", "prior", "another candidate", "partially correct", "invented"]
    assert found["failure"].values.tolist() == ["", "false rejection", "hallucination", "hallucination", "partially correct", ""]
    assert set(found["failure"].values.tolist()) - {""} == set(FAILURES)


def test_a_benchmark_without_knobs_has_neither_priors_nor_absent_ones() -> None:
    bare = planted().drop_vars(["knob_prior_digit", "knob_absent"])
    assert failures(bare)["kind"].values.tolist()[2] == "unsupported" and failures(bare)["kind"].values.tolist()[5] == "unsupported"
    for values in (np.array([np.nan, 4.0, 4.0, -1, -1, 3]), np.array(["", "4", "4", "", "", ""], dtype=object)):
        assert failures(bare.assign_coords(knob_prior_digit=("sample", values)))["kind"].values.tolist()[2] == "prior"
    with pytest.raises(InterpError, match="has no answers"):
        failures(bare.drop_vars("prediction"))
