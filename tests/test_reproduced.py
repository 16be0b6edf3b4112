"""The page over all models: what each artefact says of each, as it was written, and nothing where one is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from experiments import reproduced
from experiments.readme import central_of_all
from interp.errors import InterpError
from interp.plots import files

MODELS = ("demo/one", "demo/two")
SAID = "seen <b>more</b> often"


def finish(out: Path, artefact: str, model: str, *, theirs: str = "about 20", seconds: float = 90.0) -> Path:
    """A finished artefact as `interp reproduce` leaves it, as far as the page reads it."""
    folder = out / artefact / model.replace("/", "--")
    folder.mkdir(parents=True)
    known = {
        "artefact": artefact,
        "title": f"Title of {artefact}",
        "says": "What is asked?",
        "models": [model],
        "sentence": f"{SAID} in {model}",
        "beside": [["share", f"ours of {model}", theirs, "LLaVA", "Fig. 1", "REV"]],
        "apart": "Other data.",
        "n": "40",
        "intervals": "Intervals: 95 %.",
        "settings": [{"model": model, "revision": f"sha256:{model[-3:]}"}],
        "trace": {"versions": '{"interp": "0.1.0"}', "benchmark": "digits", "split": "test"},
        "seconds": seconds,
        "made": "2026-01-01T00:00:00+00:00",
        "files": ["table.csv"],
    }
    (folder / "provenance.json").write_text(json.dumps(known))
    return folder


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(files, "BROWSERS", ())  # drawing PNG files starts a browser
    out = tmp_path / "results"
    for k, model in enumerate(MODELS):
        finish(out, "fig1", model)
        rows = [
            {"order": order, "null": null, "share": share, "mean": mean + k / 10, "lower": 0.1, "upper": 0.9, "by chance": 0.12, "n": 50}
            for order in ("image-first", "question-first")
            for null in ("placed", "distractor")
            for share, mean in (("wrong, seen", 0.5), ("correct, seen", 0.8), ("wrong, seen and readable", 0.3))
        ]
        table = pd.DataFrame(rows)
        table.loc[table["share"] == "wrong, seen", "p after Holm"] = 0.0002 if k else 0.25
        table.to_csv(finish(out, "central", model) / "table.csv", index=False)
    return out


def test_the_page_says_of_every_model_what_its_artefacts_say(made: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    reproduced.main(made=made, results=kept)
    page = (kept / "summary.md").read_text()
    assert page.index("## central") < page.index("## fig1")
    for model in MODELS:
        assert page.count(f"&lt;b>more&lt;/b> often in {model}") == 2
    assert "<b>" not in page and "no evidence about released checkpoints" in page
    assert page.count("| about 20 | LLaVA | Fig. 1 | REV | ours of demo/one | ours of demo/two |") == 2  # one row, a column a model
    assert "6 minutes by the clock in all (minutes by model: demo/one 3, demo/two 3" in page
    ran = json.loads((kept / "run.json").read_text())
    assert ran["revisions"] == {"demo/one": "sha256:one", "demo/two": "sha256:two"} and ran["artefacts"]["demo/one"]["fig1"]["n"] == "40"
    figure = (kept / "central.html").read_text().replace("\\u002f", "/")
    assert all(f"{model}, question-first, distractor" in figure for model in MODELS)


def test_the_central_table_holds_each_model_s_own_numbers(made: Path, tmp_path: Path) -> None:
    assert "Not run yet" in central_of_all(tmp_path)
    reproduced.main(made=made, results=tmp_path)
    rows = [line for line in central_of_all(tmp_path).splitlines() if line.startswith("| demo/")]
    assert len(rows) == 4
    assert all("50.0 % \\[10.0, 90.0\\] (12.0 %; p = 0.250) | 30.0 % \\[10.0, 90.0\\] (12.0 %) | 80.0 %" in row for row in rows[:2])
    assert all("60.0 % \\[10.0, 90.0\\] (12.0 %; p &lt; 0.001) | 40.0 % \\[10.0, 90.0\\] (12.0 %) | 90.0 %" in row for row in rows[2:])


def test_a_share_that_a_model_has_not_is_none(made: Path, tmp_path: Path) -> None:
    """Without a probe nothing is known to be readable, and without distractors there is no such null."""
    path = made / "central" / "demo--two" / "table.csv"
    table = pd.read_csv(path)
    table[(table["share"] != "wrong, seen and readable") & (table["null"] == "placed")].to_csv(path, index=False)
    reproduced.main(made=made, results=tmp_path)
    rows = [line for line in central_of_all(tmp_path).splitlines() if line.startswith("| demo/two")]
    assert len(rows) == 2 and all(row.count("| none ") == 4 and "60.0 %" in row and "90.0 %" in row for row in rows)


def test_what_is_missing_is_named(made: Path, tmp_path: Path) -> None:
    finish(made, "fig2", "demo/two")
    with pytest.raises(InterpError, match=r"demo/one: fig2\)"):
        reproduced.main(made=made, results=tmp_path / "kept")
    with pytest.raises(InterpError, match="No finished artefact"):
        reproduced.main(made=tmp_path / "nothing", results=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
