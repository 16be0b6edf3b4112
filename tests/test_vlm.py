"""Loading: what is accepted, and one clear sentence for what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

import interp
from interp.benchmarks.sample import Sample
from interp.errors import ModelError
from interp.testing import TINY, bench_model, bench_samples, samples, tiny_vlm, tokenizer
from interp.vlm import VLM


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return tiny_vlm()


@pytest.fixture(scope="module")
def folder(vlm: VLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    vlm.hf_model.save_pretrained(path)
    vlm.processor.save_pretrained(path)
    return path


def test_a_saved_folder_loads_as_the_same_model(vlm: VLM, folder: Path) -> None:
    loaded = interp.load_vlm(folder, device="cpu")
    assert (loaded.name, loaded.family.model_type, loaded.n_layers, loaded.n_heads) == (str(folder), "llava", 4, 4)
    assert loaded.generate(samples(3)) == vlm.generate(samples(3))


@pytest.mark.parametrize("name", TINY)
def test_every_family_survives_saving(name: str, tmp_path: Path) -> None:
    """Weights, their number type, tokenizer, template and picture settings: the same answers, from the same tokens."""
    made = tiny_vlm(name)
    # what a processor is told to pass to every call is no part of a checkpoint
    told = {key: value for key, value in getattr(made.processor, "images_kwargs", {}).items() if name == "gemma3_pan_and_scan"}
    wide = Sample("wide", Image.effect_noise((90, 30), 60), "what is it", "one")

    def again(vlm: VLM, folder: Path, **options: Any) -> VLM:
        vlm.hf_model.save_pretrained(folder)
        vlm.processor.save_pretrained(folder)
        return interp.load_vlm(folder, device="cpu", image_options=told, **options)

    single, half = again(made, tmp_path / "single"), again(made, tmp_path / "single", dtype="bfloat16")
    for before, after in ((made, single), (half, again(half, tmp_path / "half"))):
        assert (after.dtype, after.family) == (before.dtype, before.family)
        assert after.encode(wide).token_ids.tolist() == before.encode(wide).token_ids.tolist()
        assert after.generate([wide, samples(1)[0]], max_new_tokens=6) == before.generate([wide, samples(1)[0]], max_new_tokens=6)
    assert half.dtype == torch.bfloat16


def test_dtype_and_order(folder: Path) -> None:
    loaded = interp.load_vlm(folder, device="cpu", dtype="bfloat16", prompt_order="question-first")
    assert loaded.dtype == torch.bfloat16
    assert loaded.prompt_order == "question-first"
    with pytest.raises(ModelError, match="Number type 'float31' is unknown"):
        interp.load_vlm(folder, dtype="float31")
    with pytest.raises(ModelError, match="Prompt order 'last' is unknown"):
        interp.load_vlm(folder, device="cpu", prompt_order="last")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="Device 'cuda:99' cannot be used"):
        interp.load_vlm(folder, device="cuda:99")


def test_unknown_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="Demo model 'demo/nothing' does not ship"):
        interp.load_vlm("demo/nothing")
    with pytest.raises(ModelError, match="Model 'nobody/nothing' was not found"):
        interp.load_vlm("nobody/nothing")
    with pytest.raises(ModelError, match="does not hold a usable model"):
        interp.load_vlm(tmp_path)


def test_text_only_models_are_refused(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"is text-only \(model type 'llama' has no vision tower\)"):
        interp.load_vlm(tmp_path)
    with pytest.raises(ModelError, match="is text-only"):
        VLM(transformers.LlamaForCausalLM(config), None)


def test_unknown_families_are_refused(tmp_path: Path) -> None:
    transformers.AriaConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"Model type 'aria' is not .* add one file to interp/families .* CONTRIBUTING.md"):
        interp.load_vlm(tmp_path)


def test_weights_must_be_safetensors(vlm: VLM, folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(vlm.hf_model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="could not be loaded .* weights as .safetensors"):
        interp.load_vlm(tmp_path, device="cpu")


def rebuilt(vlm: VLM, **changes: Any) -> Any:
    processor = transformers.LlavaProcessor(
        image_processor=vlm.processor.image_processor,
        tokenizer=tokenizer(),
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=vlm.processor.chat_template,
    )
    for name, value in changes.items():
        setattr(processor, name, value)
    return processor


def test_processors_that_cannot_be_used_are_refused(vlm: VLM) -> None:
    with pytest.raises(ModelError, match="has no chat template"):
        VLM(vlm.hf_model, rebuilt(vlm, chat_template=None))
    with pytest.raises(ModelError, match="disagree on the image token"):
        VLM(vlm.hf_model, rebuilt(vlm, image_token_id=7))
    with pytest.raises(ModelError, match="lacks a tokenizer or an image processor"):
        VLM(vlm.hf_model, tokenizer())


def test_an_own_model_is_accepted(vlm: VLM) -> None:
    again = VLM(vlm.hf_model, rebuilt(vlm))
    assert again.generate(samples(1)[0]) == vlm.generate(samples(1)[0])
    assert "llava" in repr(again)


def test_bench_samples_have_the_length_asked_for() -> None:
    vlm = bench_model()
    assert (vlm.n_layers, vlm.n_heads, vlm.hf_model.config.get_text_config().hidden_size) == (8, 8, 512)
    for n in (512, 2048):
        assert [len(vlm.encode(sample)) for sample in bench_samples(vlm, n, 2)] == [n, n]
    with pytest.raises(interp.errors.InterpError, match="too short for this model"):
        bench_samples(vlm, 100)


def test_models_of_one_name_are_told_apart_by_their_weights(tmp_path: Path) -> None:
    """A store or a profile of another training run must not pass for this one's."""
    one, same, other = tiny_vlm(seed=0), tiny_vlm(seed=0), tiny_vlm(seed=1)
    assert one.revision == same.revision != other.revision
    assert VLM(one.hf_model, one.processor, revision="mine").revision == "mine"
    found = []
    for each in (one, other):
        each.hf_model.save_pretrained(tmp_path)
        each.processor.save_pretrained(tmp_path)
        found.append(interp.load_vlm(tmp_path).revision)
    assert found[0] != found[1]
