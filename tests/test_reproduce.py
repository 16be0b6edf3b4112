"""`interp reproduce` with planted artefacts: looking them up, making what is not there, pages that say what stands beside the paper."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import xarray as xr
from pydantic import ValidationError

import interp
from experiments import paper
from experiments.artefacts import PAPER
from experiments.artefacts.context import Context, parted, slug
from experiments.artefacts.interface import STATEMENT, Artefact, Result, beside_in
from experiments.artefacts.making import Artefacts
from interp import reproduce
from interp.cli import main
from interp.errors import BenchmarkError, InterpError
from interp.reproduce import ReproduceSettings
from interp.testing import samples

LIVE = "<script>alert(1)</script> | *all* $x$"


class Counted:
    """A planted artefact that counts how often it is computed; `fail` makes it refuse."""

    def __init__(self, fail: str = "") -> None:
        self.calls, self.fail = 0, fail

    def __call__(self, context: Context | Sequence[Context]) -> Result:
        self.calls += 1
        if self.fail:
            raise InterpError(self.fail)
        first = context if isinstance(context, Context) else context[0]
        beside, apart = beside_in(first.order, ("0.3", paper.IMAGE_EARLY))
        data = xr.Dataset({"value": ("name", [0.5, np.nan])}, coords={"name": [LIVE, "b"]}, attrs={"flag": True, "layers": [1, 2]})
        figure = go.Figure(go.Scatter(x=[0, 1], y=[1, 2])).update_layout(width=300, height=200)
        table = pd.DataFrame({"name": [LIVE, "b"], "value": [0.123456789, np.nan]})
        return Result(table, figure, data, f"It is {LIVE}.", beside, apart, n=12)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No browser, and a model without weights: a context asks its model for these attributes only."""
    monkeypatch.setattr("interp.plots.files.BROWSERS", ())
    model = SimpleNamespace(revision="one", dtype="torch.float32", image_options={}, prompt_order="image-first")
    monkeypatch.setattr(Context, "vlm", lambda self, order=None: model)
    monkeypatch.setattr(sys.modules[__name__], "MODEL", model, raising=False)


def made(out: Path, *artefacts: Artefact, again: bool = False, **settings: Any) -> reproduce.Reproduced:
    names = [artefact.name for artefact in artefacts]
    asked = ReproduceSettings(out=out, **settings)
    return Artefacts(artefacts).make(names, asked, again=again, report=lambda _: None)


def test_everything_is_written_and_escaped(tmp_path: Path) -> None:
    compute = Counted()
    done = made(tmp_path, Artefact("one", "The title", "What it says.", compute), model=("demo/llava",), limit=12)
    folder = tmp_path / "one" / "demo--llava"
    assert {path.name for path in folder.iterdir()} == {"table.csv", "table.md", "figure.html", "data.zarr", "provenance.json"}
    assert done.files == [folder, tmp_path / "index.html"] and not done.failed
    assert (folder / "table.csv").read_text().splitlines()[1].endswith(",0.123456789")
    ds = xr.open_zarr(folder / "data.zarr", consolidated=False)
    assert ds["name"].values.tolist() == [LIVE, "b"] and ds.attrs["layers"] == "[1, 2]"
    known = json.loads((folder / "provenance.json").read_text())
    assert known["settings"][0]["revision"] == "one" and known["settings"][0]["limit"] == 12
    for page in (tmp_path / "index.html", folder / "figure.html", folder / "table.md"):
        text = page.read_text(encoding="utf-8")
        assert STATEMENT in text and "<script>alert" not in text
        assert paper.IMAGE_EARLY.value in text and paper.IMAGE_EARLY.source in text  # ours beside the paper's
        for named in ("demo/llava", "digits test", "n = 12", "seed 0"):
            assert named in text
    rows = [line for line in (folder / "table.md").read_text().splitlines() if line.startswith("| ")]
    assert rows[1] == "| &lt;script>alert(1)&lt;/script> \\| \\*all\\* $x$ | 0.1235 |"
    assert "plotly.min.js" in (folder / "figure.html").read_text() and (tmp_path / "plotly.min.js").stat().st_size > 1e6


def test_beside_the_paper_only_in_its_prompt_order(tmp_path: Path) -> None:
    made(tmp_path, Artefact("one", "t", "s", Counted()), prompt_order="question-first")
    text = (tmp_path / "index.html").read_text()
    assert paper.IMAGE_EARLY.value not in text and "image-first and these are question-first" in text


def test_what_is_finished_is_left_until_something_changes(tmp_path: Path) -> None:
    compute = Counted()
    one = Artefact("one", "t", "s", compute)
    made(tmp_path, one)
    assert "finished before" in made(tmp_path, one).sentences[0] and compute.calls == 1
    made(tmp_path, one, batch_size=4)  # how it is computed, not what
    assert compute.calls == 1
    changes: tuple[dict[str, Any], ...] = (
        {"seed": 1},
        {"limit": 5},
        {"max_new_tokens": 3},
        {"split": "validation"},
        {"prompt_order": "question-first"},
    )
    for changed in changes:
        before = compute.calls
        made(tmp_path, one, **changed)
        assert compute.calls == before + 1, changed
    made(tmp_path, one, again=True)
    before = compute.calls
    cast(Any, sys.modules[__name__]).MODEL.revision = "two"
    made(tmp_path, one)
    assert compute.calls == before + 1
    (tmp_path / "one" / "demo--llava" / "table.csv").unlink()
    made(tmp_path, one)
    assert compute.calls == before + 2


def test_changed_code_of_an_artefact_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Counted()
    one = Artefact("one", "t", "s", compute)
    made(tmp_path, one)
    original = sys.modules["experiments.artefacts.files"].inspect.getsource
    monkeypatch.setattr("experiments.artefacts.files.inspect.getsource", lambda module: original(module) + "# changed")
    made(tmp_path, one)
    assert compute.calls == 2


def test_a_run_that_was_killed_is_taken_up(tmp_path: Path) -> None:
    first, second = Counted(), Counted()
    artefacts = (Artefact("one", "t", "s", first), Artefact("two", "t", "s", second))

    def killed(context: Context) -> Result:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, artefacts[0], Artefact("two", "t", "s", killed))
    done = made(tmp_path, *artefacts)
    assert (first.calls, second.calls) == (1, 1) and "finished before" in done.sentences[0]


def test_one_that_cannot_be_made_does_not_stop_the_others(tmp_path: Path) -> None:
    broken, whole = Artefact("broken", "t", "s", Counted(f"No {LIVE}.")), Artefact("whole", "t", "s", Counted())
    done = made(tmp_path, broken, whole)
    assert done.failed == [f"broken, demo/llava: No {LIVE}."] and len(done.sentences) == 2  # with a note that there is no browser
    index = (tmp_path / "index.html").read_text()
    assert "broken, demo/llava: No &lt;script&gt;" in index and "<script>" not in index
    assert not (tmp_path / "broken" / "demo--llava" / "provenance.json").exists()


def test_artefacts_of_several_models_get_all_of_them(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def compute(contexts: Sequence[Context]) -> Result:
        seen.append([context.model for context in contexts])
        return Counted()(contexts[0])

    done = made(
        tmp_path, Artefact("all", "t", "s", compute, together=True), Artefact("one", "t", "s", Counted()), model=("demo/a", "demo/b")
    )
    assert seen == [["demo/a", "demo/b"]] and (tmp_path / "all" / "demo--a+demo--b" / "table.csv").exists()
    assert {path.parent.name for path in done.files} >= {"one", "all"}
    text = (tmp_path / "index.html").read_text()
    assert text.count("<th>demo/a") == 2  # a column for the model, and one for the pair


def test_a_second_model_is_added_to_the_index(tmp_path: Path) -> None:
    one = Artefact("one", "t", "s", Counted())
    made(tmp_path, one, model=("demo/a",))
    made(tmp_path, one, model=("demo/b",))
    text = (tmp_path / "index.html").read_text()
    assert '<h3 id="one-demo--a">demo/a</h3>' in text and '<h3 id="one-demo--b">demo/b</h3>' in text
    times = [json.loads(path.read_text())["seconds"] for path in tmp_path.glob("one/*/provenance.json")]
    assert f"took {sum(times):.0f} s in all" in text


def test_an_artefact_made_again_from_its_stores_counts_what_went_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("experiments.artefacts.making.time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    one = Artefact("one", "t", "s", Counted())

    def seconds(**settings: Any) -> float:
        made(tmp_path, one, model=("demo/a",), **settings)
        return json.loads((tmp_path / "one" / "demo--a" / "provenance.json").read_text())["seconds"]

    assert seconds() == 10.0
    assert seconds() == 10.0  # nothing was made
    path = tmp_path / "one" / "demo--a" / "provenance.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fingerprint": "of older code"}))
    assert seconds() == 20.0
    assert seconds(limit=3) == 10.0  # of other samples nothing was there


def test_names_of_folders_keep_models_apart() -> None:
    names = ["demo/llava", "demo--llava/x", "a/b", "a-b", "../up", "org/model.v1"]
    assert len({slug(name) for name in names}) == len(names)
    assert all("/" not in slug(name) and not slug(name).startswith(".") for name in names)


# ---------------------------------------------------------------------------------------------------------- looking up


def test_artefacts_are_looked_up_by_their_entry_points(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine, theirs = (SimpleNamespace(artefacts=[Artefact(name, "t", "s", Counted())]) for name in ("mine", "theirs"))
    points = {"a:X": mine, "b:Y": theirs}
    monkeypatch.setattr(EntryPoint, "load", lambda self: points[self.value])
    entries = [EntryPoint("b", "b:Y", reproduce.GROUP), EntryPoint("a", "a:X", reproduce.GROUP)]
    monkeypatch.setattr(reproduce, "entry_points", lambda group: entries)
    assert [artefact.name for artefact in reproduce.listed()] == ["mine", "theirs"]
    with pytest.raises(InterpError, match=r"Artefact 'ours' is unknown; use some of mine, theirs"):
        reproduce.reproduce(["ours"], ReproduceSettings(out=tmp_path))
    points["b:Y"] = mine
    with pytest.raises(InterpError, match=r"'mine' is registered by 'a:X' and by 'b:Y'"):
        reproduce.listed()
    entries.clear()
    with pytest.raises(InterpError, match="No package registers artefacts"):
        reproduce.listed()


def test_a_package_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "entry_points", lambda group: [EntryPoint("x", "nowhere_at_all:X", group)])
    with pytest.raises(InterpError, match="'nowhere_at_all:X' cannot be loaded"):
        reproduce.listed()


def test_this_package_registers_its_artefacts() -> None:
    assert [a.name for a in reproduce.listed()] == [a.name for a in PAPER.artefacts]
    text = (Path(interp.__file__).parents[1] / "pyproject.toml").read_text()
    assert re.search(r'\[project\.entry-points\."interp\.artefacts"\]\npaper = "experiments\.artefacts:PAPER"', text)


def test_what_is_asked_for_is_checked_first(tmp_path: Path) -> None:
    with pytest.raises(InterpError, match="'demo/llava' is given twice"):
        reproduce.reproduce(["fig1"], ReproduceSettings(model=("demo/llava", "demo/llava"), out=tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(InterpError, match="is a file; give a folder"):
        reproduce.reproduce(["fig1"], ReproduceSettings(out=tmp_path / "file"))
    with pytest.raises(ValidationError):
        ReproduceSettings(limit=0)
    assert ReproduceSettings.model_validate({"model": "a,b"}).model == ("a", "b")
    assert ReproduceSettings(model=("a", "b")).command_line("reproduce") == "interp reproduce --model a,b"


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Exit status of `interp reproduce` with these words."""
    monkeypatch.setattr(sys, "argv", ["interp", "reproduce", *words])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")  # main() reads sys.argv, as a user's shell fills it
def test_the_command_says_in_one_sentence_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "--list") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [a.name for a in PAPER.artefacts]
    wrong = {("fig1", "--all"): "not both", ("figure",): "'figure' is unknown", ("fig1", "--limit", "0"): "--limit", (): "--list"}
    for words, said in wrong.items():
        assert command(monkeypatch, *words, "--out", str(tmp_path)) == 2
        lines = capsys.readouterr().err.splitlines()
        assert [line.startswith("error:") and said in line for line in lines] == [True], lines


@pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")  # main() reads sys.argv, as a user's shell fills it
def test_the_command_makes_and_names_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken = Artefact("whole", "t", "s", Counted()), Artefact("broken", "t", "s", Counted(f"No {LIVE}."))
    monkeypatch.setattr(reproduce, "collections", lambda: [Artefacts((whole, broken))])
    asked = ("--model", "demo/a", "--model", "demo/b", "--out", str(tmp_path))
    assert command(monkeypatch, "whole", *asked) == 0
    out = capsys.readouterr().out
    assert f"whole, demo/a: It is {LIVE}." in out and f"wrote {tmp_path / 'whole' / 'demo--b'}" in out
    assert f"wrote {tmp_path / 'index.html'}" in out
    assert command(monkeypatch, "--all", *asked) == 2
    shown = capsys.readouterr()
    assert "finished before" in shown.out and f"broken, demo/b: No {LIVE}." in shown.err
    assert command(monkeypatch, "broken", "--model", "demo/a", "--out", str(tmp_path)) == 2


# --------------------------------------------------------------------------------------------------------- the samples


def test_a_benchmark_without_a_profile_split_is_parted_by_picture() -> None:
    asked = samples(40, seed=1)
    renamed = [interp.Sample(s.id, s.images, s.question, s.references, s.regions, image_id=f"p{k // 3}") for k, s in enumerate(asked)]
    first, rest = parted(renamed, 200)
    assert 0 < len(first) <= 10 and len(first) + len(rest) == 40
    assert {s.image_id for s in first}.isdisjoint(s.image_id for s in rest)
    assert len(parted(renamed, 4)[0]) == 3
    with pytest.raises(BenchmarkError, match="too few"):
        parted(renamed[:3], 200)


def test_parts_of_a_benchmark_share_no_picture(tmp_path: Path) -> None:
    context = Context("demo/llava", ReproduceSettings(out=tmp_path, limit=12))
    parts = {part: context.samples(part) for part in ("judged", "profile", "train")}
    assert {part: len(each) for part, each in parts.items()} == {"judged": 12, "profile": 20, "train": 200}
    pictures = {part: {sample.image_id for sample in each} for part, each in parts.items()}
    assert sum(map(len, pictures.values())) == len(set().union(*pictures.values()))
    whole = Context("demo/llava", ReproduceSettings(out=tmp_path))
    assert [len(whole.samples(part)) for part in ("judged", "profile", "train")] == [500, 200, 1500]


def test_answers_are_given_once_for_all_artefacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods asked for in overlapping sets: each is evaluated once, and comes back in the order wanted."""
    evaluated: list[tuple[tuple[str, ...], int, Any]] = []

    def evaluate(vlm: Any, bench: Sequence[Any], methods: Sequence[str], profile: Any, *, store: Path, **options: Any) -> xr.Dataset:
        if not store.exists():
            evaluated.append((tuple(methods), len(bench), options.get("alpha")))
            store.mkdir()
        values = np.array([[len(name) + k for k in range(len(bench))] for name in methods], dtype=float)
        ids = [sample.id for sample in bench]
        extra = {"shift_role": ("sample", np.arange(len(bench)))} if "vea-shifted" in methods else {}
        return xr.Dataset({"exact_match": (("method", "sample"), values), **extra}, coords={"method": list(methods), "sample": ids})

    monkeypatch.setattr("experiments.artefacts.context.interp.evaluate", evaluate)
    monkeypatch.setattr(Context, "profile", lambda self, order=None: None)
    context = Context("demo/llava", ReproduceSettings(out=tmp_path, limit=8))
    both = context.answers(["base", "vea"], 5)
    assert both["method"].values.tolist() == ["base", "vea"] and both["exact_match"].sel({"method": "vea"}).values.tolist() == [
        3,
        4,
        5,
        6,
        7,
    ]
    more = context.answers(["vea-shifted", "inst", "base"], 5)
    assert more["method"].values.tolist() == ["vea-shifted", "inst", "base"] and more["shift_role"].sizes == {"sample": 5}
    assert context.answers(["vea"], 5)["exact_match"].sizes == {"method": 1, "sample": 5}
    context.answers(["base"], 8)
    context.answers(["vea"], 5, alpha=0.2)
    assert evaluated == [
        (("base", "vea"), 5, None),
        (("vea-shifted", "inst"), 5, None),
        (("base",), 8, None),
        (("vea",), 5, 0.2),
    ]
