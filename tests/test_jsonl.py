"""Your own data: what a row says is what the sample holds, and whatever is wrong with a row is said by file, line and field."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import interp
from interp.benchmarks.sample import Region, Sample
from interp.errors import BenchmarkError, ImageError, SampleError
from interp.settings import TraceSettings

WIDTH, HEIGHT = 64, 40

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("own")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT), "teal").save(made / name)
    return made


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows (objects, or lines as they are) beside a picture a.png."""
    Image.new("RGB", (WIDTH, HEIGHT), "teal").save(tmp_path / "a.png")

    def written(*rows: Any, name: str = "own.jsonl") -> Path:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / name

    return written


def row(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"id": "q", "image": "a.png", "question": "what is it?", "references": "7"} | changes
    return {name: value for name, value in made.items() if value is not ...}


def load(path: Path, **options: Any) -> interp.benchmarks.Benchmark:
    return interp.load_benchmark("jsonl", path=path, **options)


# ------------------------------------------------------------------------------------------------------- round trip

text = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(lambda t: not t.isspace() and t.strip() != "")
corner = st.integers(0, 30)
boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), corner, st.integers(0, 18), st.integers(2, 32), st.integers(2, 20))
regions = st.builds(Region, boxes, st.sampled_from(["evidence", "anchor", "distractor"]), st.none() | text, st.integers(0, 1))
knob = st.booleans() | st.integers(-9, 9) | st.floats(-5, 5) | text
knobs = st.dictionaries(st.text("abc_ é", min_size=1, max_size=5).filter(str.strip), knob, max_size=3)
drawn = st.fixed_dictionaries(
    {
        "question": text,
        "references": st.lists(text, min_size=1, max_size=3),
        "regions": st.lists(regions, max_size=3),
        "boxes": st.lists(boxes, max_size=2),
        "image_id": st.none() | text,
        "dataset": st.none() | text,
        "split": st.none() | text,
        "knobs": knobs,
        "box_format": st.sampled_from(["xyxy", "xywh"]),
        "normalised": st.booleans(),
    }
)


def corners(box: tuple[float, ...], box_format: str, normalised: bool) -> list[float]:
    """A box in pixels as a row of that format writes it."""
    x0, y0, x1, y1 = box
    x0, x1, y0, y1 = (x0 / WIDTH, x1 / WIDTH, y0 / HEIGHT, y1 / HEIGHT) if normalised else (x0, x1, y0, y1)
    return [x0, y0, x1 - x0, y1 - y0] if box_format == "xywh" else [x0, y0, x1, y1]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(drawn, min_size=1, max_size=3))
def test_what_a_row_says_is_what_the_sample_holds(folder: Path, rows: list[dict[str, Any]]) -> None:
    lines, expected = [], []
    for number, one in enumerate(rows):
        way = {name: one[name] for name in ("box_format", "normalised")}
        written = {name: one[name] for name in ("question", "references", "knobs", "image_id", "dataset", "split")}
        marked = [
            {"box": corners(r.box, **way), "role": r.role, "image_index": r.image_index} | ({"text": r.text} if r.text is not None else {})
            for r in one["regions"]
        ]
        drawn_boxes = [corners(box, **way) for box in one["boxes"]]
        lines.append({**way, **written, "id": f"row {number}", "images": ["a.png", "b.png"], "boxes": drawn_boxes, "regions": marked})
        sample = Sample(
            f"row {number}",
            [folder / "a.png", folder / "b.png"],
            one["question"],
            one["references"],
            [*(Region(box) for box in one["boxes"]), *one["regions"]],
            image_id=one["image_id"] or "a.png + b.png",
            dataset=one["dataset"] or "own",
            split=one["split"] or "",
            knobs=one["knobs"],
        )
        expected.append(sample)
    file = folder / "own.jsonl"
    file.write_text("\n".join(json.dumps(line, ensure_ascii=number % 2 == 0) for number, line in enumerate(lines)), encoding="utf-8")
    bench = load(file)
    assert (bench.name, len(bench)) == ("jsonl", len(expected))
    for got, wanted in zip(bench, expected, strict=True):
        for name in ("id", "image_id", "images", "question", "references", "dataset", "split"):
            assert getattr(got, name) == getattr(wanted, name), name
        assert dict(got.knobs) == dict(wanted.knobs)
        assert [(r.role, r.text, r.image_index) for r in got.regions] == [(r.role, r.text, r.image_index) for r in wanted.regions]
        for one, other in zip(got.regions, wanted.regions, strict=True):
            assert one.box == pytest.approx(other.box, abs=1e-9)
    assert bench.report["n_without_evidence"] == sum(not sample.evidence for sample in expected)
    assert bench.report["n_clipped_boxes"] <= sum(len(sample.regions) for sample in expected)


def test_the_smallest_row_and_its_defaults(write: Write) -> None:
    (sample,) = load(write("", row(id=3), "   "))
    assert (sample.id, sample.image_id, sample.dataset, sample.split, sample.references) == ("3", "a.png", "own", "", ("7",))
    assert not sample.regions and not sample.knobs
    assert sample.open_images()[0].size == (WIDTH, HEIGHT)


def test_one_picture_is_one_unit_for_resampling(write: Write) -> None:
    bench = load(write(row(id="p"), row(id="q", image="./a.png"), row(id="r", images=["a.png"], image=...), row(id="s", image_id="scene")))
    assert [sample.image_id for sample in bench] == ["a.png", "a.png", "a.png", "scene"]


def test_a_byte_order_mark_is_no_part_of_the_data(write: Write) -> None:
    path = write(row())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [sample.id for sample in load(path)] == ["q"]


# --------------------------------------------------------------------------------------------------------- pictures


def test_pictures_are_looked_for_in_both_folders_and_opened_late(write: Write, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = write(row(id="p"), row(id="q", image="b.png"), row(id="r", image=str(tmp_path / "a.png")))
    Image.new("RGB", (5, 6)).save(tmp_path / "elsewhere" / "b.png")
    bench = load(path, images=tmp_path / "elsewhere")
    assert [picture.size for sample in bench for picture in sample.open_images()] == [(WIDTH, HEIGHT), (5, 6), (WIDTH, HEIGHT)]
    Image.new("RGB", (7, 8)).save(tmp_path / "elsewhere" / "a.png")  # `images` comes first
    assert load(path, images=tmp_path / "elsewhere")[0].open_images()[0].size == (7, 8)


def test_a_missing_picture_is_named_with_where_it_was_looked_for(write: Write, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    bench = load(write(row(image="no/b.png", boxes=[[1, 2, 30, 40]])), images=tmp_path / "elsewhere")
    assert (bench.report["n_missing_images"], bench.report["n_unchecked_boxes"]) == (1, 1)
    with pytest.raises(ImageError, match=r"'q' \(file '.*', line 1\): image 'no/b.png' is missing; it was looked for at") as caught:
        bench[0].open_images()
    assert all(repr(str(place / "no/b.png")) in str(caught.value) for place in (tmp_path / "elsewhere", tmp_path))
    (tmp_path / "no").mkdir()
    Image.new("RGB", (50, 50)).save(tmp_path / "no" / "b.png")  # what is put there later is found
    assert bench[0].open_images()[0].size == (50, 50)


def test_a_broken_picture_is_named_when_it_is_opened(write: Write, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no picture")
    (sample,) = load(write(row(image="a.txt", boxes=[[1, 2, 30, 40]])))
    with pytest.raises(ImageError, match=r"'q' \(file '.*', line 1\): file .*a.txt' cannot be read as an image"):
        sample.open_images()


def test_a_box_is_cut_where_it_sticks_out_by_rounding_only(write: Write) -> None:
    bench = load(write(row(boxes=[[-0.5, 3, WIDTH + 1, HEIGHT]])))
    assert bench[0].regions[0].box == (0, 3, WIDTH, HEIGHT) and bench.report["n_clipped_boxes"] == 1


# --------------------------------------------------------------------------------------------------- splits and limit


def test_splits_and_limit(write: Write) -> None:
    path = write(*(row(id=str(k), split=split) for k, split in enumerate(["test", "profile", ..., "test", "test"])))
    assert [sample.id for sample in load(path)] == list("01234")
    bench = load(path, split="test", limit=2)
    assert [sample.id for sample in bench] == ["0", "3"] and bench.split == "test"
    assert (bench.report["n_rows"], bench.report["n_other_split"]) == (4, 2)
    with pytest.raises(BenchmarkError, match=r"no usable row of split 'dev' \(it holds 'profile', 'test', rows without a split\)"):
        load(path, split="dev")


def test_the_other_benchmarks_still_have_their_splits() -> None:
    assert interp.load_benchmark("digits", limit=1).split == "test"
    with pytest.raises(BenchmarkError, match="'visual-cot' has no split 'own'"):
        interp.load_benchmark("visual-cot", split="own")


# ------------------------------------------------------------------------------------------------------ what is wrong

BAD: list[tuple[Any, str]] = [
    ("{", r"the line is not a JSON object \(Invalid JSON.*write each row as one object on one line"),
    ("[1, 2]", "the line is not a JSON object"),
    (row(id=...), "field 'id' is missing; give a text or a whole number"),
    (row(id=""), "field 'id' is '', which cannot be used"),
    (row(id=True), "field 'id' is True"),
    (row(image=...), "neither `image` nor `images`; give one"),
    (row(images=["a.png"]), "both `image` and `images`; give one"),
    (row(image=...) | {"images": []}, r"field 'images' is \[\], .*give a list of paths"),
    (row(image=["a.png"]), r"field 'image' is \['a.png'\], .*a list of paths as `images`"),
    (row(question=" "), "field 'question' is ' ', which cannot be used; give the text to ask"),
    (row(question=...), "field 'question' is missing"),
    (row(references=...), "field 'references' is missing; give an accepted answer, or a list"),
    (row(references=[]), "field 'references' is "),
    (row(references=7), "field 'references' is 7, .*as text"),
    (row(references=["7", ""]), r"field 'references\[1\]' is ''"),
    (row(references=["7", 7]), r"field 'references\[1\]' is 7"),
    (row(answer="7"), "field 'answer' is unknown; use id, image, images, question, references"),
    (row(answer="7", references=...), r"field 'answer' is unknown \(and 1 more\); use id"),
    (row(boxes=[1, 2, 3, 4]), r"field 'boxes\[0\]' is 1, .*\(and 3 more\); give a list of boxes of four"),
    (row(boxes=[[1, 2, 3]]), r"field 'boxes\[0\]' is \[1, 2, 3\], which cannot be used; give a list of boxes of four finite numbers"),
    (row(boxes=[[1, 2, "3", 4]]), r"field 'boxes\[0\]\[2\]' is '3'"),
    ('{"id": "q", "image": "a.png", "question": "?", "references": "7", "boxes": [[0, 0, 9, NaN]]}', r"field 'boxes\[0\]\[3\]' is nan"),
    (row(boxes=[[5, 5, 5, 9]]), r"field 'boxes\[0\]' is \[5.0, 5.0, 5.0, 9.0\], which has no area as xyxy; .*x1 above x0"),
    (row(boxes=[[5, 5, 0, 9]], box_format="xywh"), "has no area as xywh; give a width and a height"),
    (row(boxes=[[30, 20, 40, 15]], box_format="xywh"), r"beyond its 64 x 40 picture as xywh, normalised false; correct the box"),
    (row(boxes=[[3, 4, 63, 42]]), r"beyond its 64 x 40 picture as xyxy"),
    (row(boxes=[[-3, 4, 63, 40]]), r"beyond its 64 x 40 picture as xyxy"),
    (row(boxes=[[0.1, 0.1, 0.5, 0.5]]), 'which as pixels is within the first one; say "normalised": true'),
    (row(boxes=[[10, 10, 20, 20]], normalised=True), "beyond its 64 x 40 picture as xyxy, normalised true"),
    (
        row(boxes=[[0, 0, 0.5, 0.5]], normalised=True, image="b.png"),
        r"shares of picture 'b.png', of which no readable file is at '.*b.png'",
    ),
    (row(box_format="yxyx"), "field 'box_format' is 'yxyx', which cannot be used; give \"xyxy\""),
    (row(normalised="yes"), "field 'normalised' is 'yes'"),
    (row(normalized=True), "field 'normalized' is unknown; use .*normalised"),
    (row(regions=[{"box": [1, 2, 3, 4], "role": "answer"}]), r"field 'regions\[0\].role' is 'answer', .*evidence, anchor, distractor"),
    (row(regions=[{"role": "anchor"}]), r"field 'regions\[0\].box' is missing"),
    (row(regions=[{"box": [1, 2, 3, 4], "label": "x"}]), r"field 'regions\[0\].label' is unknown; use box, role, text, image_index"),
    (row(regions=[{"box": [1, 2, 3, 4], "image_index": 1}]), r"field 'regions\[0\].image_index' is 1, but the row has 1 picture\(s\)"),
    (row(regions=[{"box": [1, 2, 3, 4], "image_index": -1}]), r"field 'regions\[0\].image_index' is -1"),
    (row(regions=[{"box": [9, 2, 3, 4]}]), r"field 'regions\[0\].box' is .* which has no area"),
    (row(split=3), "field 'split' is 3, which cannot be used; give a text, or leave it out"),
    (row(dataset=""), "field 'dataset' is ''"),
    (row(image_id=[1]), r"field 'image_id' is \[1\]"),
    (row(knobs={"size": [1]}), r"field 'knobs' is \{'size': \[1\]\}"),
    (row(knobs={"a/b": 1}), "field 'knobs' is .*hold no '/'"),
    (row(knobs={" ": 1}), "field 'knobs' is "),
    (row(knobs={"x": None}), "field 'knobs' is "),
    ('{"id": "q", "image": "a.png", "question": "?", "references": "7", "knobs": {"x": 1e999}}', "field 'knobs' is "),
    (row(knobs=[1]), r"field 'knobs' is \[1\]"),
]


@pytest.mark.parametrize(("bad", "said"), BAD)
def test_a_bad_row_is_refused_by_line_and_field_or_left_out_and_counted(
    write: Write, caplog: pytest.LogCaptureFixture, bad: Any, said: str
) -> None:
    path = write(row(id="good"), bad)
    with pytest.raises(SampleError, match=said) as caught:
        load(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"File {str(path)!r}, line 2: ") and "skip_bad=True, --skip-bad" in sentence and "\n" not in sentence
    with caplog.at_level(logging.INFO):
        bench = load(path, skip_bad=True)
    assert [sample.id for sample in bench] == ["good"]
    assert (bench.report["n_rows"], bench.report["n_bad_rows"]) == (2, 1) and sentence in caplog.text


def test_a_video_is_refused(write: Write, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(SampleError, match=r"own.jsonl', line 1: Sample 'q': .*a.mp4' is a video"):
        load(write(row(image="a.mp4")))


@pytest.mark.parametrize("skip_bad", [False, True])
def test_two_rows_of_one_id_are_refused(write: Write, skip_bad: bool) -> None:
    path = write(row(id=1, split="profile"), row(id="2"), row(id="1", split="test"))
    with pytest.raises(BenchmarkError, match=r"own.jsonl', line 3, field 'id': '1' is also the id of line 1; give every row"):
        load(path, skip_bad=skip_bad)


def test_bad_files_and_folders_get_one_clear_sentence(write: Write, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="'jsonl' needs path; give path=..."):
        interp.load_benchmark("jsonl")
    with pytest.raises(BenchmarkError, match="no.jsonl' does not exist; give the path"):
        load(tmp_path / "no.jsonl")
    with pytest.raises(BenchmarkError, match="does not exist; give the path of a file"):
        load(tmp_path)
    with pytest.raises(BenchmarkError, match="Images folder '.*nowhere' does not exist"):
        load(write(row()), images=tmp_path / "nowhere")
    with pytest.raises(BenchmarkError, match="holds no row; give another file"):
        load(write(""))
    with pytest.raises(BenchmarkError, match="no usable row, and 1 unusable ones that were left out"):
        load(write({}), skip_bad=True)
    path = tmp_path / "wide.jsonl"
    path.write_bytes(json.dumps(row()).encode("utf-16"))
    with pytest.raises(SampleError, match="wide.jsonl', line 1: the line is not a JSON object.*UTF-8"):
        load(path)


# ------------------------------------------------------------------------------------------------- on the command line


def test_settings_pass_the_file_on_and_write_the_same_command(write: Write, tmp_path: Path) -> None:
    path = write(row(id="good"), {})
    asked = TraceSettings(model="m", benchmark="jsonl", path=path, images=tmp_path, skip_bad=True, out=tmp_path / "o.zarr")
    assert len(interp.load_benchmark(asked.benchmark, **asked.benchmark_options())) == 1
    assert f"--benchmark jsonl --path {path} --images {tmp_path} --skip-bad" in asked.command_line("trace")


def test_the_command_line_says_which_line_is_wrong(write: Write, tmp_path: Path) -> None:
    path = write(row(), row(id="r", question=7))
    asked = ["trace", "--model", "demo/llava", "--benchmark", "jsonl", "--path", str(path), "--out", str(tmp_path / "o.zarr")]
    code = f"import sys; sys.argv[1:] = {asked!r}; from interp.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "line 2: field 'question' is 7" in done.stderr


def test_a_trace_of_own_data(write: Write) -> None:
    """To the end: own rows through a model, its knobs and evidence in the trace."""
    from interp.testing import tiny_vlm

    path = write(row(knobs={"blur": 0.5}, boxes=[[0, 0, 0.5, 1]], normalised=True), row(id="r", knobs={"blur": 2}, boxes=[[32, 0, 64, 40]]))
    ds = interp.trace(tiny_vlm("llava"), load(path), max_new_tokens=2)
    assert ds["knob_blur"].values.tolist() == [0.5, 2.0] and ds["image_id"].values.astype(object).tolist() == ["a.png"] * 2
    marked = (ds["coverage"] > 0).values
    assert marked.any(axis=1).all() and not (marked[0] & marked[1]).any()
