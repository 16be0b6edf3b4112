"""The three forms Visual-CoT is published in, told apart by their fields, as rows of one kind.

train
    ``metadata/<dataset>_cot_train.jsonl``: question, answer, image, width, height, bboxs (several boxes, pixels).
benchmark
    ``viscot_benchmark/benchmark/<dataset>.json``: conversations, and ``path###[x0, y0, x1, y1]`` in whole pixels, already the
    union where several boxes were marked. No picture size.
detection
    ``viscot_benchmark/benchmark_det/<dataset>.jsonl``: the benchmark's boxes unrounded, with the picture's size, and no answers.
    It refines the rows of a benchmark file; alone, its benchmark file is looked for beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from interp.benchmarks.sample import Box
from interp.errors import BenchmarkError

Size = tuple[float, float]  # width, height in pixels

_FOLDERS = {"textcap": "textvqa"}  # TextCaps questions are about TextVQA's pictures
_SUFFIX = re.compile(r"\s*Please provide the bounding box coordinate of the region.*\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Row:
    """One question in any of the forms. `picture` is ``<folder>/<file>``, `size` None where unknown, `answers` empty in detection.

    `box_kind` is ``union`` where one box stands for all that was marked, ``marked`` where each box was kept.
    """

    dataset: str
    split: str
    number: int | str
    question: str
    answers: tuple[str, ...]
    picture: str
    boxes: tuple[Box, ...]
    size: Size | None
    box_kind: Literal["union", "marked"] = "union"


def read_rows(paths: Sequence[Path]) -> tuple[list[Row], int]:
    """The rows of every file in order, those of benchmark files with the boxes and sizes of the detection files.

    Returns
    -------
    tuple
        The rows, and how many detection rows no benchmark row asks for.

    Raises
    ------
    BenchmarkError
        A file is missing or unreadable, in none of the three forms, or a detection file has no benchmark file.
    """
    rows: list[Row] = []
    detections: dict[tuple[str, str], list[Row]] = {}
    lonely: list[Path] = []
    has_benchmark = False
    for path in paths:
        form, found = _read(path)
        if form == "detection":
            lonely.append(path)
            for row in found:
                detections.setdefault((row.picture, row.question), []).append(row)
        else:
            has_benchmark |= form == "benchmark"
            rows += found
    if lonely and not has_benchmark:
        for path in lonely:
            rows += _read(_benchmark_beside(path))[1]
    for i, row in enumerate(rows):
        if row.size is None and (found := detections.pop((row.picture, row.question), None)):
            rows[i] = replace(row, boxes=tuple(box for d in found for box in d.boxes), size=found[0].size)
    return rows, sum(map(len, detections.values()))


def _benchmark_beside(path: Path) -> Path:
    """The benchmark file that answers a detection file's questions, by the published layout or by file name."""
    candidates = (path.parent.parent / "benchmark" / f"{path.stem}.json", path.with_name(f"{path.stem.removesuffix('_det')}_bench.json"))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise BenchmarkError(
        f"Visual-CoT detection file {str(path)!r} holds no answers, and its benchmark file is not beside it; "
        "give both: annotations=[BENCHMARK.json, DETECTION.jsonl]."
    )


def _read(path: Path) -> tuple[str, list[Row]]:
    """The form of a file and its rows."""
    records = _records(path)
    first = records[0] if records and isinstance(records[0], dict) else {}
    forms = {"bboxs": "train", "conversations": "benchmark", "expression": "detection"}
    form = next((form for key, form in forms.items() if key in first), None)
    if form is None:
        seen = ", ".join(map(str, first)) or "no records"
        raise BenchmarkError(
            f"Annotation file {str(path)!r} is in none of Visual-CoT's forms (its first record has: {seen}); give a train JSON Lines "
            "file (bboxs), a benchmark JSON file (conversations) or a detection JSON Lines file (expression)."
        )
    parse = {"train": _train_row, "benchmark": _benchmark_row, "detection": _detection_row}[form]
    rows: list[Row] = []
    for number, record in enumerate(records):
        try:
            rows.append(parse(record, number))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise BenchmarkError(
                f"Annotation file {str(path)!r}, record {number}: not a Visual-CoT {form} record ({type(error).__name__}: {error}); "
                "correct or remove it."
            ) from error
    return form, rows


def _records(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BenchmarkError(f"Visual-CoT annotation file {str(path)!r} does not exist; check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(
            f"Visual-CoT annotation file {str(path)!r} cannot be read ({error}); give a JSON or JSON Lines file."
        ) from error
    try:
        if text.lstrip().startswith("["):
            return json.loads(text)
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise BenchmarkError(f"Visual-CoT annotation file {str(path)!r} is not JSON or JSON Lines ({error}); replace the file.") from error


def _train_row(record: dict[str, Any], number: int) -> Row:
    extra = record.get("possible_answers") or []
    return Row(
        dataset=record["dataset"],
        split=record["split"],
        number=number,
        question=_question(record["question"]),
        answers=_answers([record["answer"], *([extra] if isinstance(extra, str) else extra)]),
        picture=_picture(record["image"], record["dataset"]),
        boxes=tuple(_box(box) for box in record["bboxs"]),
        size=(float(record["width"]), float(record["height"])),
        box_kind="marked",
    )


def _benchmark_row(record: dict[str, Any], number: int) -> Row:
    marked = [json.loads(text.partition("###")[2]) for text in record["image"] if "###" in text]
    turns = [turn["value"] for turn in record["conversations"]]
    return Row(
        dataset=record["dataset"],
        split=record["split"],
        number=record.get("question_id", number),
        question=_question(turns[0]),
        answers=_answers([turns[3]]),
        picture=_picture(record["image"][0], record["dataset"]),
        boxes=tuple(_box(box) for found in marked for box in (found if isinstance(found[0], list) else [found])),
        size=None,
    )


def _detection_row(record: dict[str, Any], number: int) -> Row:
    return Row(
        dataset="",
        split=record["split"],
        number=record.get("question_id", number),
        question=_question(record["expression"]),
        answers=(),
        picture=_picture(record["img_path"], ""),
        boxes=(_box(record["bbox"]),),
        size=(float(record["width"]), float(record["height"])),
    )


def _question(text: str) -> str:
    return _SUFFIX.sub("", text.replace("<image>", "")).strip()


def _answers(answers: Sequence[Any]) -> tuple[str, ...]:
    texts = (str(answer).strip() for answer in answers if answer is not None)
    return tuple(dict.fromkeys(text for text in texts if text))


def _box(box: Sequence[float]) -> Box:
    x0, y0, x1, y1 = (float(v) for v in box)
    return x0, y0, x1, y1


def _picture(path: str, dataset: str) -> str:
    """``<folder>/<file>`` from ``cot/<folder>/<file>`` or, in train files, from the bare file name."""
    parts = PurePosixPath(path).parts
    parts = parts[1:] if len(parts) > 1 and parts[0] == "cot" else parts
    parts = parts if len(parts) > 1 else (dataset, *parts)
    return str(PurePosixPath(_FOLDERS.get(parts[0], parts[0]), *parts[1:]))
