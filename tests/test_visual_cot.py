"""The Visual-CoT loader on small files of each published form, and on the real annotations where they are at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from interp.benchmarks import load_benchmark
from interp.benchmarks.visual_cot import load
from interp.errors import BenchmarkError, ImageError, SampleError

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "visual_cot"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the Visual-CoT annotations are not beside the checkout")
SUFFIX = " Please provide the bounding box coordinate of the region that can help you answer the question better."


def train_row(**changes: Any) -> dict[str, Any]:
    row = {"question": "What is the total?", "answer": "9.30", "image": "a.jpg", "width": 100, "height": 60, "split": "train"}
    return row | {"bboxs": [[10, 10, 30, 20], [40, 10, 60, 20]], "dataset": "sroie"} | changes


def bench_row(box: str = "[10, 10, 30, 20]", number: int = 0, name: str = "textvqa/a.jpg", **changes: Any) -> dict[str, Any]:
    turns = ["<image>\nwho is it?" + SUFFIX, "[0.1, 0.1, 0.3, 0.2]", "<image>", "Ada"]
    row = {"dataset": name.split("/")[0], "split": "val", "question_id": number, "image": [f"cot/{name}", f"cot/{name}###{box}"]}
    return row | {"conversations": [{"from": "human", "value": turn} for turn in turns]} | changes


def det_row(box: list[float], name: str = "textvqa/a.jpg", **changes: Any) -> dict[str, Any]:
    row = {"img_path": f"cot/{name}", "expression": "who is it?", "bbox": box, "height": 60, "width": 100, "question_id": 0, "split": "val"}
    return row | changes


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows)) + "\n")
    return path


def boxes(sample: Any) -> list[tuple[float, ...]]:
    return [region.box for region in sample.evidence]


def test_train_rows_keep_every_box(tmp_path: Path) -> None:
    bench = load(write(tmp_path / "sroie_cot_train.jsonl", [train_row(), train_row(possible_answers=["9.3", "9.30"])]), tmp_path, "train")
    assert len(bench) == 2 and (bench.name, bench.split) == ("visual-cot", "train")
    sample = bench[0]
    assert (sample.id, sample.image_id, sample.dataset, sample.split) == ("sroie/train/0", "sroie/a.jpg", "sroie", "train")
    assert sample.references == ("9.30",) and boxes(sample) == [(10, 10, 30, 20), (40, 10, 60, 20)]
    assert bench[1].references == ("9.30", "9.3")
    assert bench.report["n_rows"] == 2 and bench.report["n_missing_images"] == 2
    with pytest.raises(ImageError, match="a.jpg"):  # only opening a missing picture is an error
        sample.open_images()


def test_benchmark_rows(tmp_path: Path) -> None:
    rows = [bench_row(), bench_row("[[1, 2, 3, 4], [5, 6, 7, 8]]", 1)]
    bench = load(write(tmp_path / "b.json", rows), tmp_path)
    assert bench[0].question == "who is it?" and bench[0].references == ("Ada",)
    assert (bench[0].id, bench[0].image_id) == ("textvqa/val/0", "textvqa/a.jpg")
    assert boxes(bench[0]) == [(10, 10, 30, 20)] and boxes(bench[1]) == [(1, 2, 3, 4), (5, 6, 7, 8)]
    assert bench.report["n_unchecked_boxes"] == 3


@pytest.mark.parametrize("layout", ["pictures/{}", "pictures/cot/{}", "pictures"])
def test_pictures_are_found_and_opened_late(tmp_path: Path, layout: str) -> None:
    folder = tmp_path / layout.format("textvqa")
    folder.mkdir(parents=True)
    Image.new("RGB", (20, 15), "red").save(folder / "a.jpg")
    bench = load(write(tmp_path / "b.json", [bench_row("[10, 10, 30, 20]")]), tmp_path / "pictures")
    assert bench[0].open_images()[0].size == (20, 15)
    # The size comes from the file's header, so that a box beyond it is clipped and opening does not fail.
    assert boxes(bench[0]) == [(10, 10, 20, 15)]
    assert bench.report["n_clipped_boxes"] == 1 and bench.report["n_missing_images"] == bench.report["n_unchecked_boxes"] == 0


def test_without_pictures_the_error_says_what_is_missing_and_where_it_was_looked_for(tmp_path: Path) -> None:
    file = write(tmp_path / "b.json", [bench_row(), bench_row(number=1)])
    folder = tmp_path / "pictures"
    folder.mkdir()
    one, two = load(file, folder)
    assert one.image_id == two.image_id == "textvqa/a.jpg" and one.image_uris == (str(folder / "textvqa" / "a.jpg"),)
    with pytest.raises(ImageError, match="'textvqa/a.jpg' is missing; it was looked for at") as caught:
        one.open_images()
    assert all(repr(str(folder / place)) in str(caught.value) for place in ("textvqa/a.jpg", "cot/textvqa/a.jpg", "a.jpg"))
    Image.new("RGB", (40, 25)).save(folder / "a.jpg")  # what is put there later is found
    assert one.open_images()[0].size == (40, 25)


def test_boxes_say_whether_they_are_unions(tmp_path: Path) -> None:
    coarse = write(tmp_path / "b.json", [bench_row()])
    fine = write(tmp_path / "d.jsonl", [det_row([10.5, 10.25, 30, 20])])
    train = write(tmp_path / "t.jsonl", [train_row()])
    kinds = [
        load(files, tmp_path, split)[0].knobs["box_kind"] for files, split in ((coarse, "val"), ([coarse, fine], "val"), (train, "train"))
    ]
    assert kinds == ["union", "union", "marked"]


def test_textcap_questions_are_about_textvqa_pictures(tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", [train_row(dataset=name) for name in ("textcap", "textvqa")])
    caps, vqa = load(file, tmp_path, "train")
    assert caps.image_id == vqa.image_id == "textvqa/a.jpg" and caps.id != vqa.id and caps.dataset == "textcap"
    assert caps.image_uris == (str(tmp_path / "textvqa" / "a.jpg"),)


def test_bad_boxes_are_counted_never_silently_lost(tmp_path: Path) -> None:
    odd = [[30, 10, 20, 20], [10, 5, 10, 9], [100, 0, 120, 10], [-5, 50, 20, 70], [0, 0, 100, 60]]
    bench = load(write(tmp_path / "t.jsonl", [train_row(bboxs=odd), train_row(bboxs=odd[:3])]), tmp_path, "train", skip_bad=True)
    assert boxes(bench[0]) == [(0, 50, 20, 60), (0, 0, 100, 60)] and boxes(bench[1]) == []
    counts = {"n_degenerate_boxes": 4, "n_outside_boxes": 2, "n_clipped_boxes": 1, "n_without_evidence": 1}
    assert {key: bench.report[key] for key in counts} == counts


def test_detection_rows_refine_the_benchmark(tmp_path: Path) -> None:
    bench_file = write(tmp_path / "b.json", [bench_row(), bench_row(number=1, name="textvqa/b.jpg")])
    det_file = write(tmp_path / "d.jsonl", [det_row([10.5, 10.25, 130.5, 20]), det_row([1, 1, 2, 2], "textvqa/c.jpg")])
    bench = load([bench_file, det_file], tmp_path)
    assert [boxes(s) for s in bench] == [[(10.5, 10.25, 100, 20)], [(10, 10, 30, 20)]]
    assert (bench.report["n_clipped_boxes"], bench.report["n_unchecked_boxes"], bench.report["n_unused_detections"]) == (1, 1, 1)


@pytest.mark.parametrize(("det", "answers"), [("x_det.jsonl", "x_bench.json"), ("benchmark_det/x.jsonl", "benchmark/x.json")])
def test_a_detection_file_alone_finds_its_benchmark_file(tmp_path: Path, det: str, answers: str) -> None:
    file = write(tmp_path / det, [det_row([10.5, 10, 30, 20])])
    with pytest.raises(BenchmarkError, match=r"holds no answers.*annotations=\[BENCHMARK"):
        load(file, tmp_path)
    write(tmp_path / answers, [bench_row()])
    (sample,) = load(file, tmp_path)
    assert sample.references == ("Ada",) and boxes(sample) == [(10.5, 10, 30, 20)]


def test_ids_stay_unique_across_files_and_data_sets(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i}.jsonl", [train_row(), train_row(dataset="docvqa")]) for i in range(2)]
    ids = [sample.id for sample in load(files, tmp_path, "train")]
    assert ids == ["sroie/train/0", "docvqa/train/1", "sroie/train/0-2", "docvqa/train/1-2"]


def test_split_limit_and_rows_without_answer(tmp_path: Path) -> None:
    rows = [bench_row(), bench_row(number=1, split="train"), bench_row(number=2, conversations=[{"value": "q?"}] * 3 + [{"value": " "}])]
    file = write(tmp_path / "b.json", [*rows, bench_row(number=3)])
    with pytest.raises(SampleError, match=r"'textvqa/val/2' has no question or no reference answer; .* skip_bad=True"):
        load(file, tmp_path)
    for split in ("val", "validation", "test"):
        bench = load_benchmark("visual-cot", annotations=file, images=tmp_path, split=split, skip_bad=True)
        assert [s.id for s in bench] == ["textvqa/val/0", "textvqa/val/3"] and bench.split == "val"
    assert (bench.report["n_other_split"], bench.report["n_without_text"]) == (1, 1)
    assert [s.id for s in load(file, tmp_path, "val", limit=1)] == ["textvqa/val/0"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("no.json", None, "'.*no.json' does not exist; check the path"),
        ("a.jsonl", '{"question": 1}\n{"quest', "not JSON or JSON Lines"),
        ("a.json", "[]", "none of Visual-CoT's forms .*no records"),
        ("a.json", '[{"image": "a.jpg", "label": 3}]', "none of Visual-CoT's forms .*has: image, label"),
        ("a.json", "[1, 2]", "none of Visual-CoT's forms"),
        ("a.jsonl", json.dumps(train_row()) + "\n" + json.dumps(train_row(bboxs=[[1, 2, 3]])), "record 1: not a Visual-CoT train record"),
        ("a.json", json.dumps([bench_row(conversations=[])]), "record 0: not a Visual-CoT benchmark record"),
        ("a.jsonl", json.dumps({k: v for k, v in train_row().items() if k != "width"}), "KeyError: 'width'"),
        ("a.jsonl", json.dumps(train_row()), "no usable row of split 'test' .*they hold train.*choose another split"),
    ],
)
def test_bad_files_get_one_clear_sentence(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(BenchmarkError, match=said) as caught:
        load_benchmark("visual-cot", annotations=tmp_path / name, images=tmp_path)
    assert "\n" not in str(caught.value)


def test_bad_arguments_get_one_clear_sentence(tmp_path: Path) -> None:
    file = write(tmp_path / "b.json", [bench_row()])
    with pytest.raises(BenchmarkError, match="images folder '.*nowhere' does not exist; give the folder"):
        load(file, tmp_path / "nowhere")
    with pytest.raises(BenchmarkError, match="given twice"):
        load([file, file], tmp_path)
    with pytest.raises(BenchmarkError, match="no annotation file"):
        load([], tmp_path)
    with pytest.raises(BenchmarkError, match="has no split 'dev'"):
        load(file, tmp_path, "dev")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BenchmarkError, match="cannot be read"):
        load(tmp_path / "binary.json", tmp_path)


@real
@pytest.mark.parametrize(
    ("name", "n_rows", "n_images", "n_degenerate"),
    [("textvqa", 526, 496, 0), ("docvqa", 888, 617, 8), ("infographicsvqa", 360, 216, 0), ("sroie", 686, 322, 0)],
)
def test_real_benchmark_files(tmp_path: Path, name: str, n_rows: int, n_images: int, n_degenerate: int) -> None:
    """Rows, pictures and faulty boxes are as many as counted independently; the detection file names the same boxes, unrounded."""
    coarse = load(REAL / f"{name}_bench.json", tmp_path)
    assert (len(coarse), len({s.image_id for s in coarse}), len({s.id for s in coarse})) == (n_rows, n_images, n_rows)
    assert coarse.report["n_degenerate_boxes"] == coarse.report["n_without_evidence"] == n_degenerate
    assert not any("bounding box" in s.question or "<image>" in s.question for s in coarse)

    fine = load([REAL / f"{name}_bench.json", REAL / f"{name}_det.jsonl"], tmp_path)
    assert fine.report["n_unchecked_boxes"] == fine.report["n_unused_detections"] == fine.report["n_clipped_boxes"] == 0
    assert [s.id for s in load(REAL / f"{name}_det.jsonl", tmp_path)] == [s.id for s in fine] == [s.id for s in coarse]
    for a, b in zip(coarse, fine, strict=True):
        assert (a.question, a.references) == (b.question, b.references)
        assert all(abs(u - v) < 1 for p, q in zip(boxes(a), boxes(b), strict=True) for u, v in zip(p, q, strict=True))


@real
def test_real_files_together_and_train(tmp_path: Path) -> None:
    files = [REAL / f"{name}_bench.json" for name in ("textvqa", "docvqa", "infographicsvqa", "sroie")]
    bench = load_benchmark("visual-cot", annotations=files, images=tmp_path, split="val")
    assert len({s.id for s in bench}) == len(bench) == 526 + 888 + 360 + 686

    train = load_benchmark("visual-cot", annotations=REAL / "sroie_train_head.jsonl", images=tmp_path, split="train")
    assert len(train) == 200 and all(len(s.evidence) == 1 for s in train)
    assert train[0].references == ("DIGI TELECOMMUNICATIONS SDN BHD",) and boxes(train[0]) == [(57, 179, 550, 530)]
