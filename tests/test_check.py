"""A certificate passes what is right, and for each thing that can be wrong names it: every check is shown a model it must refuse."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import interp
from interp.capture.attention import attention_rows
from interp.certificate import Certificate, matrix
from interp.encoding import SEGMENTS
from interp.errors import InterpError
from interp.families import TokenRegions
from interp.loading import shipped
from interp.testing import TINY, tiny_vlm
from interp.vlm import VLM

NAMES = ("prompt", "tokens", "marker", "two pictures", "rows", "values", "edit", "padding", "answers")


@pytest.mark.parametrize("name", TINY)
def test_every_family_passes(name: str) -> None:
    found = interp.check(tiny_vlm(name))
    assert [(check.name, check.outcome, check.reason) for check in found.checks] == [(check, "pass", "") for check in NAMES]
    assert found.passed and found.verdict == "9 of 9 checks passed."
    assert found["rows"].numbers["off_one"] < 1e-5 and found["values"].numbers["off_value"] < 1e-4
    assert found["padding"].numbers["variation"] < 1e-4
    assert found["marker"].numbers["peaks_silenced"] == found["marker"].numbers["markers"] >= 12


@pytest.mark.parametrize("name", shipped())
def test_every_model_that_ships_passes(name: str) -> None:
    found = interp.check(interp.load_vlm(name))
    assert [(check.name, check.outcome, check.reason) for check in found.checks] == [(check, "pass", "") for check in NAMES]
    assert found.passed and found.model == name


def test_half_precision_passes() -> None:
    assert interp.check(tiny_vlm(dtype=torch.bfloat16)).failed == ()


def test_the_other_prompt_order_passes() -> None:
    found = interp.check(tiny_vlm("gemma3", prompt_order="question-first"))
    assert found.passed and found.provenance["prompt_order"] == "question-first"


def test_the_model_is_left_as_it_was() -> None:
    def hooks() -> list[tuple[int, int]]:
        return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in vlm.hf_model.modules()]

    vlm = tiny_vlm("qwen3_vl")
    once = interp.check(vlm, seed=3)  # transformers and nnsight prepare a model in its first trace
    weights, hooked = {name: weight.clone() for name, weight in vlm.hf_model.state_dict().items()}, hooks()
    template, settings = vlm.processor.chat_template, copy.deepcopy(vars(vlm.processor.image_processor))
    again = interp.check(vlm, seed=3)
    assert all(torch.equal(weight, weights[name]) for name, weight in vlm.hf_model.state_dict().items())
    assert hooks() == hooked and not vlm.hf_model.training
    assert vlm.hf_model.config.get_text_config()._attn_implementation == "sdpa"
    assert vlm.processor.chat_template == template and vars(vlm.processor.image_processor) == settings
    assert once.to_dict() == again.to_dict()


# ------------------------------------------------------------------------------------------------------- sabotage


def refused(vlm: VLM, name: str, *words: str) -> Certificate:
    """The certificate, in which one check failed, for this reason, and nothing else did."""
    found = interp.check(vlm)
    assert found.failed == (name,), [(check.name, check.reason) for check in found.checks if check.outcome != "pass"]
    assert not found.passed and not found[name].passed
    for word in words:
        assert word in found[name].reason, found[name].reason
    return found


def with_regions(vlm: VLM, change: Callable[[TokenRegions, tuple[int, int], int], TokenRegions]) -> VLM:
    """The model with another map: `change` of (regions, picture's size, picture's index)."""
    family = vlm.family

    def changed(processor: Any, config: Any, size: tuple[int, int], index: int, inputs: Any) -> TokenRegions:
        return change(family.image_regions(processor, config, size, index, inputs), size, index)

    vlm.family = dataclasses.replace(family, image_regions=changed)
    return vlm


def with_boxes(name: str, change: Callable[[NDArray[np.float64], tuple[int, int]], NDArray[np.float64]]) -> VLM:
    def moved(regions: TokenRegions, size: tuple[int, int], index: int) -> TokenRegions:
        del index
        return dataclasses.replace(regions, boxes=change(regions.boxes, size))

    return with_regions(tiny_vlm(name), moved)


def shifted(boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    del size
    return np.roll(boxes, 1, axis=0)


def transposed(boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    del size
    side = int(len(boxes) ** 0.5)
    return boxes.reshape(side, side, 4).transpose(1, 0, 2).reshape(-1, 4)


def squashed(boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """As if nothing had been cropped away."""
    low, high = np.nanmin(boxes, axis=0)[:2], np.nanmax(boxes, axis=0)[2:]
    return (boxes - [*low, *low]) / [*(high - low), *(high - low)] * [*size, *size]


def narrowed(boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """As if the outer ring of the picture were cropped away, which it is not."""
    return boxes * 0.5 + np.array([*size, *size]) / 4


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llava", shifted),
        ("llava", transposed),
        ("llava", squashed),
        ("qwen2_5_vl", narrowed),
        ("llava_next", shifted),
        ("gemma3", transposed),
        ("internvl", shifted),
    ],
)
def test_a_wrong_map_is_refused(name: str, change: Callable[..., NDArray[np.float64]]) -> None:
    found = refused(with_boxes(name, change), "marker", "contradict the boxes", tiny_vlm(name).family.model_type)
    assert found["two pictures"].outcome == "skip" and "marker failed" in found["two pictures"].reason


def test_two_tokens_that_changed_places_are_refused() -> None:
    """A few single markers would miss them; many at once do not."""

    def swapped(boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
        del size
        order = np.arange(len(boxes))
        order[[20, 44]] = 44, 20
        return boxes[order]

    refused(with_boxes("qwen3_vl", swapped), "marker", "markers at once")


def test_a_newline_with_a_region_is_refused() -> None:
    """A token that stands for nothing is given its neighbour's box: then it should move, and does not."""

    def filled(regions: TokenRegions, size: tuple[int, int], index: int) -> TokenRegions:
        del size, index
        empty = np.isnan(regions.boxes)
        scale = np.where(empty[:, :2], np.roll(regions.scale, 1, axis=0), regions.scale)
        return dataclasses.replace(regions, boxes=np.where(empty, np.roll(regions.boxes, 1, axis=0), regions.boxes), scale=scale)

    refused(with_regions(tiny_vlm("llava_next"), filled), "marker", "not move token")


def test_a_map_that_says_nothing_is_refused() -> None:
    refused(with_boxes("llava", lambda boxes, _: np.full_like(boxes, np.nan)), "marker", "no token has a box")


def test_a_missed_view_is_refused() -> None:
    """The tiles are right, the thumbnail is said to stand for nothing: it moves all the same."""

    def blind(regions: TokenRegions, size: tuple[int, int], index: int) -> TokenRegions:
        del size, index
        last = (regions.view == regions.view.max())[:, None]
        return dataclasses.replace(regions, boxes=np.where(last, np.nan, regions.boxes))

    refused(with_regions(tiny_vlm("internvl"), blind), "marker", "which stands for no part of the picture")


def test_a_tower_that_mixes_elsewhere_is_refused() -> None:
    vlm = tiny_vlm()
    projector = vlm.hf_model.model.multi_modal_projector
    handle = projector.register_forward_hook(lambda _, __, out: out + out.mean(dim=-2, keepdim=True))
    refused(vlm, "marker", "also moves token")
    handle.remove()


def test_a_tower_without_known_attention_is_refused() -> None:
    vlm = tiny_vlm()
    for layer in vlm.hf_model.model.vision_tower.encoder.layers:
        layer.self_attn.__class__ = type("Mixer", (type(layer.self_attn),), {})
    refused(vlm, "marker", "No attention module was found in the vision tower")


def test_a_wrong_token_count_is_refused() -> None:
    def lacking(regions: TokenRegions, size: tuple[int, int], index: int) -> TokenRegions:
        del index
        names = [field.name for field in dataclasses.fields(regions)]
        wide = size[0] > 2 * size[1]
        return TokenRegions(*(getattr(regions, name)[:-1] for name in names)) if wide else regions

    found = refused(with_regions(tiny_vlm(), lacking), "tokens", "16 image tokens", "gives 15", "(640, 256)")
    assert set(found["tokens"].numbers) == {"square", "tall"}


def test_pictures_taken_for_one_are_refused() -> None:
    def first(regions: TokenRegions, size: tuple[int, int], index: int) -> TokenRegions:
        del size, index
        return dataclasses.replace(regions, image_index=np.zeros_like(regions.image_index))

    refused(with_regions(tiny_vlm(), first), "two pictures", "image_index")


def test_a_template_of_one_picture_is_no_failure() -> None:
    vlm = tiny_vlm()
    several = "{% if (messages[0]['content'] | selectattr('type', 'equalto', 'image') | list | length) > 1 %}"
    vlm.processor.chat_template = several + "{{ raise_exception('one picture only') }}{% endif %}" + vlm.processor.chat_template
    found = interp.check(vlm)
    assert found.passed and found["two pictures"].outcome == "skip" and "one picture only" in found["two pictures"].reason
    assert found.verdict == "8 of 9 checks passed, 1 could not be judged."


def test_a_template_that_changes_the_question_is_refused() -> None:
    vlm = tiny_vlm()
    vlm.processor.chat_template = vlm.processor.chat_template.replace("part['text']", "part['text'] | upper")
    found = refused(vlm, "prompt", "changes the user's words")
    assert {check.outcome for check in found.checks if check.name != "prompt"} == {"skip"}


def test_a_template_that_places_the_picture_itself_serves_one_order() -> None:
    turn = "{{ message['role'] + ' :' }}{% for part in message['content'] if part['type'] == 'image' %}{{ ' <image>' }}{% endfor %}"
    words = "{% for part in message['content'] if part['type'] == 'text' %}{{ ' ' + part['text'] }}{% endfor %}{{ ' ' }}"
    vlm, other = tiny_vlm(), tiny_vlm(prompt_order="question-first")
    for each in (vlm, other):
        each.processor.chat_template = "{% for message in messages %}" + turn + words + "{% endfor %}{{ 'assistant :' }}"
    found = interp.check(vlm)
    assert found.passed and "image-first only" in found["prompt"].found and found["prompt"].numbers["orders"] == 1
    refused(other, "prompt", "question-first", "use 'image-first'")


def test_question_tokens_elsewhere_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm, question = tiny_vlm(), SEGMENTS.index("question")

    def off(self: Any) -> NDArray[np.int64]:
        return np.flatnonzero(self.segment == question) - 3

    monkeypatch.setattr("interp.encoding.Encoding.question_tokens", property(off))
    refused(vlm, "prompt", "marked as the question read")


def test_rows_that_do_not_sum_to_one_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.capture.attention.attention_rows", lambda *a, **k: attention_rows(*a, **k) / 2)
    found = refused(tiny_vlm(), "rows", "layer 0", "off a sum of one by 0.5")
    assert [check.name for check in found.checks if check.outcome == "skip"] == ["values", "padding"]


def test_rows_outside_the_window_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sliding layer whose rows are those of a full one: they sum to one, but not within what the layer can reach."""

    def full(query: Any, key: Any, mask: Any, *rest: Any, **more: Any) -> torch.Tensor:
        return attention_rows(query, key, torch.ones_like(mask) if mask is not None else None, *rest, **more)

    monkeypatch.setattr("interp.capture.attention.attention_rows", full)
    refused(tiny_vlm("gemma3"), "rows", "within what the layer can reach")


def test_rows_that_are_not_the_models_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(*arguments: Any, **more: Any) -> torch.Tensor:
        rows = attention_rows(*arguments, **more)
        return torch.cat([rows[..., :-2], rows[..., -1:], rows[..., -2:-1]], dim=-1)

    monkeypatch.setattr("interp.capture.attention.attention_rows", swapped)
    refused(tiny_vlm(), "values", "do not give the model's own attention output")


def test_an_edit_without_effect_is_refused() -> None:
    vlm = tiny_vlm()
    with torch.no_grad():
        vlm.layers[2].self_attn.o_proj.weight.zero_()
    refused(vlm, "edit", "of layer 2 leaves the logits as they were")


def test_an_edit_that_stays_is_refused() -> None:
    vlm, calls = tiny_vlm(), []

    def drifting(_: Any, __: Any, logits: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return logits + len(calls)  # the same for every word, so that no answer changes

    handle = vlm.hf_model.lm_head.register_forward_hook(drifting)
    refused(vlm, "edit", "keeps a state between calls")
    handle.remove()


def test_padding_that_is_attended_to_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = tiny_vlm()
    batch = vlm.batch

    def unmasked(encodings: Any) -> dict[str, torch.Tensor]:
        inputs = batch(encodings)
        return {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}

    monkeypatch.setattr(vlm, "batch", unmasked)
    refused(vlm, "padding", "padding is attended to")


def test_padding_that_moves_the_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padded prompts lose a word: no attention leaks into the padding, the rows are others all the same."""
    vlm = tiny_vlm()
    batch = vlm.batch

    def blurred(encodings: Any) -> dict[str, torch.Tensor]:
        inputs = batch(encodings)
        padded = bool((inputs["attention_mask"] == 0).any())
        ids = inputs["input_ids"]
        return (
            {**inputs, "input_ids": torch.where(ids == vlm.processor.tokenizer.convert_tokens_to_ids("the"), 1, ids)} if padded else inputs
        )

    monkeypatch.setattr(vlm, "batch", blurred)
    refused(vlm, "padding", "differ from those of the same prompt alone")


def test_a_model_that_remembers_the_last_prompt_is_refused() -> None:
    vlm, last = tiny_vlm(), [0]

    def remembering(_: Any, __: Any, keywords: dict[str, Any], outputs: Any) -> None:
        ids = keywords["input_ids"]
        if ids.shape[1] > 1:
            last[0] = ids.shape[1]
        else:
            outputs.logits[:, -1, 10 + last[0] % 7] += 1000

    handle = vlm.hf_model.register_forward_hook(remembering, with_kwargs=True)
    refused(vlm, "answers", "1 of 8", "keeps a state between calls")
    handle.remove()


def test_an_error_of_any_kind_is_a_failure_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = tiny_vlm()

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a page of text\nthe kernel gave up")

    monkeypatch.setattr(vlm.processor.image_processor, "preprocess", broken)
    found = interp.check(vlm)
    assert not found.passed and found.failed == ("tokens",)
    assert "RuntimeError: the kernel gave up" in found["tokens"].reason
    monkeypatch.undo()
    monkeypatch.setattr(vlm, "batch", broken)
    found = interp.check(vlm)
    assert {"marker", "rows", "edit", "answers"} <= set(found.failed)
    assert found["edit"].reason == "RuntimeError: the kernel gave up"


# ----------------------------------------------------------------------------------------------------- what it writes


@pytest.fixture(scope="module")
def passing() -> Certificate:
    return interp.check(tiny_vlm())


@pytest.fixture(scope="module")
def failing() -> Certificate:
    return interp.check(with_boxes("internvl", shifted))


def test_a_certificate_is_a_file_and_a_data_set(passing: Certificate, failing: Certificate, tmp_path: Path) -> None:
    for certificate in (passing, failing):
        certificate.save(tmp_path / "certificate.json")
        read = json.loads((tmp_path / "certificate.json").read_text())
        assert read["passed"] is certificate.passed and read["model"] == certificate.model
        assert [(check["name"], check["outcome"], check["numbers"]) for check in read["checks"]] == [
            (check.name, check.outcome, check.numbers) for check in certificate.checks
        ]
        assert read["provenance"]["version_torch"] == torch.__version__
        ds = certificate.to_dataset()
        assert ds["check"].values.tolist() == list(NAMES)
        assert ds["outcome"].values.tolist() == [check.outcome for check in certificate.checks]
        assert ds["reason"].sel(check="marker").item() == certificate["marker"].reason
        assert all("long_name" in variable.attrs for variable in ds.data_vars.values()) and ds.attrs["family"] == certificate.family


def test_a_certificate_of_nothing_does_not_pass(passing: Certificate) -> None:
    skipped = tuple(dataclasses.replace(check, outcome="skip") for check in passing.checks)
    assert not dataclasses.replace(passing, checks=skipped).passed


def test_models_side_by_side(passing: Certificate, failing: Certificate) -> None:
    header, rule, *rows = matrix([passing, failing]).splitlines()
    assert header == "| model | family | number type | " + " | ".join(NAMES) + " |"
    assert rule.count("|") == header.count("|")
    assert rows[0] == "| tiny/llava | llava | float32 | " + " | ".join(["pass"] * 9) + " |"
    marks = ["pass", "pass", "**fail**", "–", *["pass"] * 5]
    assert rows[1] == "| tiny/internvl | internvl | float32 | " + " | ".join(marks) + " |"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`interp check` in this process: the exit status and what was printed."""
    from rich.console import Console

    from interp import cli

    monkeypatch.setattr(cli, "_out", Console(width=200))

    def run(vlm: VLM | None, *arguments: str) -> tuple[int, str]:
        if vlm is not None:
            monkeypatch.setattr("interp.loading.load_vlm", lambda *_, **__: vlm)
        monkeypatch.setattr("sys.argv", ["interp", "check", *arguments])
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


@pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
def test_the_command_certifies_a_model(said: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    status, printed = said(None, "demo/llava", "--dtype", "bfloat16", "--out", str(tmp_path / "new" / "certificate.json"))
    assert status == 0, printed
    assert all(name in printed for name in NAMES) and "9 of 9 checks passed." in printed and "FAIL" not in printed
    read = json.loads((tmp_path / "new" / "certificate.json").read_text())
    assert read["model"] == "demo/llava" and read["provenance"]["dtype"] == "bfloat16"


@pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
def test_the_command_says_what_failed(said: Callable[..., tuple[int, str]]) -> None:
    status, printed = said(with_boxes("internvl", shifted), "any/model")
    assert status == 1
    flat = " ".join(printed.replace("│", " ").split())
    assert "FAIL" in flat and "contradict the boxes" in flat and "failed: marker." in flat


@pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
def test_the_command_has_help_with_an_example_and_refuses_bad_input(said: Callable[..., tuple[int, str]]) -> None:
    status, printed = said(None, "--help")
    assert status == 0 and "interp check demo/llava" in printed and "--image-options" in printed
    for arguments, word in [
        (("demo/nobody",), "demo/nobody"),
        (("demo/llava", "--image-options", "no"), "--image-options"),
        ((), "--model"),
    ]:
        status, printed = said(None, *arguments)
        assert status == 2 and word in printed and "Traceback" not in printed


def test_an_error_of_the_house_keeps_its_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = tiny_vlm()

    def refuse(*_: Any) -> None:
        raise InterpError("This is the sentence.")

    monkeypatch.setattr(vlm, "decode", refuse)
    refused(vlm, "answers", "This is the sentence.")
