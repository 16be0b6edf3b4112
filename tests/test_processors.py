"""Processors with and without torchvision, from a folder and from the hub's cache, and settings of the picture processing."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.constants import HF_HUB_CACHE
from numpy.typing import NDArray
from PIL import Image

import interp
from interp.benchmarks.sample import Sample
from interp.errors import ModelError, SampleError, StoreError
from interp.processors import load_processor, torchvision_works, without_video
from interp.settings import TraceSettings
from interp.testing import TINY, samples, tiny_vlm
from interp.vlm import VLM

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@cache
def tiny(name: str, dtype: torch.dtype = torch.float32) -> VLM:
    return tiny_vlm(name, dtype=dtype)


WITH_VIDEO = [name for name in TINY if "video_processor" in inspect.signature(type(tiny(name).processor).__init__).parameters]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder that ``save_pretrained`` wrote, once for each tiny model."""
    root = tmp_path_factory.mktemp("saved")

    def save(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            tiny(name).hf_model.save_pretrained(folder)
            tiny(name).processor.save_pretrained(folder)
        return folder

    return save


def config_of(name: str) -> Any:
    return tiny(name).hf_model.config


def same(processor: Any, name: str) -> bool:
    """Whether a processor makes of a picture and a question what the tiny model's own does."""
    mine, theirs = (VLM(tiny(name).hf_model, each).encode(samples(1)[0]) for each in (processor, tiny(name).processor))
    return mine.inputs.keys() == theirs.inputs.keys() and all(torch.equal(mine.inputs[key], theirs.inputs[key]) for key in mine.inputs)


def test_there_is_something_to_show() -> None:
    """Four architectures have a video part, and this environment has no torchvision: the tests below would show nothing otherwise."""
    assert len({config_of(name).model_type for name in WITH_VIDEO}) == 4
    assert not torchvision_works()


@pytest.mark.parametrize("name", WITH_VIDEO)
def test_a_checkpoint_of_the_hub_loads_without_torchvision(
    name: str, saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the hub's cache on this machine, in the layout that downloading gives, with no network."""
    repository = tmp_path / "models--org--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(saved(name), repository / "snapshots" / COMMIT)
    for constants in [m for m in list(sys.modules.values()) if getattr(m, "HF_HUB_CACHE", None) == HF_HUB_CACHE]:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    loaded = interp.load_vlm("org/model", device="cpu")
    assert (loaded.name, loaded.revision) == ("org/model", COMMIT)
    assert loaded.generate(samples(2)) == tiny(name).generate(samples(2))


def as_old(folder: Path, named_in: str, suffix: str) -> None:
    """As checkpoints lay on the hub before processors had a file of their own: the picture settings alone, torchvision's class named."""
    processor = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").unlink()
    images = processor.pop("image_processor")
    images["image_processor_type"] += suffix
    tokens = json.loads((folder / "tokenizer_config.json").read_text())
    tokens.pop("processor_class", None)
    for file, settings in {"preprocessor_config.json": images, "tokenizer_config.json": tokens}.items():
        said = {"processor_class": "Qwen2VLProcessor"} if file == named_in else {}  # not what follows from the model's type
        (folder / file).write_text(json.dumps(settings | said))


@pytest.mark.parametrize("suffix", ["", "Fast"])
@pytest.mark.parametrize("named_in", ["preprocessor_config.json", "tokenizer_config.json", "nowhere"])
def test_old_checkpoints_load_without_torchvision(named_in: str, suffix: str, saved: Callable[[str], Path], tmp_path: Path) -> None:
    """The class is named by one of two files, or follows from the model's type."""
    folder = tmp_path / "old"
    shutil.copytree(saved("qwen2_5_vl"), folder)
    as_old(folder, named_in, suffix)
    processor = load_processor(folder, config_of("qwen2_5_vl"))
    assert type(processor).__name__ == ("Qwen2_5_VLProcessor" if named_in == "nowhere" else "Qwen2VLProcessor")
    assert same(processor, "qwen2_5_vl")


@pytest.mark.parametrize("name", WITH_VIDEO)
def test_settings_for_video_do_no_harm(name: str, saved: Callable[[str], Path], tmp_path: Path) -> None:
    """A checkpoint saved with torchvision holds them beside those for pictures."""
    folder = tmp_path / "with"
    shutil.copytree(saved(name), folder)
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["video_processor"] = {"video_processor_type": "SomeVideoProcessor", "size": {"shortest_edge": 5}}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    assert same(load_processor(folder, config_of(name)), name)


@pytest.mark.parametrize("name", WITH_VIDEO)
def test_what_is_saved_without_video_is_the_class_of_transformers(name: str, saved: Callable[[str], Path]) -> None:
    """In every file that names it; and a processor that was loaded without video refuses one."""
    kind = type(tiny(name).processor).__name__
    assert json.loads((saved(name) / "processor_config.json").read_text())["processor_class"] == kind
    assert json.loads((saved(name) / "tokenizer_config.json").read_text())["processor_class"] == kind
    processor = load_processor(saved(name), config_of(name))
    assert isinstance(processor, getattr(transformers, kind))
    with pytest.raises(ModelError, match="Video is not supported; give its frames as pictures"):
        processor(text=[f"what {processor.video_token}"], videos=[np.zeros((2, 28, 28, 3), dtype=np.uint8)], return_tensors="pt")


@pytest.fixture
def fake_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """A package of that name with the text given to it."""

    def make(text: str) -> Path:
        package = tmp_path / "fake" / "torchvision"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(text)
        monkeypatch.syspath_prepend(package.parent)
        importlib.invalidate_caches()
        return package.parent

    yield make
    sys.modules.pop("torchvision", None)


def test_with_torchvision_the_standard_path_is_used(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, fake_torchvision: Callable[[str], Path]
) -> None:
    fake_torchvision("")
    assert torchvision_works()
    asked: list[Path] = []

    def standard(source: Path, **where: Any) -> Any:
        asked.append(source)
        if source == saved("internvl"):
            raise OSError("no settings for video")
        return "standard"

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", standard)
    assert load_processor(saved("qwen3_vl"), config_of("qwen3_vl")) == "standard"
    # one that was saved without torchvision has no video part, and still loads
    assert same(load_processor(saved("internvl"), config_of("internvl")), "internvl")
    assert asked == [saved("qwen3_vl"), saved("internvl")]


def test_a_broken_torchvision_gets_one_sentence(fake_torchvision: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A build for another torch: transformers takes it for a working one, and fails in many places before a model is loaded."""
    sentence = re.escape("The installed torchvision cannot be imported (operator torchvision::nms does not exist); install the build that")
    monkeypatch.delitem(sys.modules, "interp.loading")
    monkeypatch.setitem(sys.modules, "interp.vlm", None)  # importing it fails, as it does then
    with pytest.raises(ImportError, match="import of interp.vlm halted"):
        _ = interp.load_vlm
    fake_torchvision("raise RuntimeError('operator torchvision::nms does not exist\\nand more')")
    with pytest.raises(ModelError, match=sentence):
        torchvision_works()
    with pytest.raises(ModelError, match=sentence):
        _ = interp.load_vlm


def test_videos_among_the_pictures_are_refused() -> None:
    with pytest.raises(SampleError, match=r"Sample 's': 'a/Clip.MP4' is a video, which is not supported; give its frames as pictures"):
        Sample("s", ["a/one.png", "a/Clip.MP4"], "what", "one")


@pytest.mark.parametrize("images", [np.zeros((2, 20, 30, 3), np.uint8), [np.zeros((20, 30, 3), np.uint8)], None], ids=type)
def test_what_is_no_picture_is_refused(images: Any) -> None:
    """An array of a video's frames among it."""
    with pytest.raises(SampleError, match=r"Sample 's': a picture is a \w+, which is not supported; give a PIL image or a path"):
        Sample("s", images, "what", "one")


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_a_picture_that_the_processor_does_not_take_gets_one_sentence(name: str) -> None:
    sample = Sample("s", Image.new("RGB", (600, 2)), "what", "one")
    with pytest.raises(
        SampleError, match=r"Sample 's': processor \w+ cannot prepare picture\(s\) of \[\(600, 2\)\] pixels \(absolute aspect"
    ):
        tiny(name).encode(sample)


# ------------------------------------------------------------------------------------------------ settings of the pictures

Case = tuple[str, dict[str, Any], tuple[int, int]]
MOVED: list[Case] = [  # those that change which part of a picture a token stands for, and a size at which they do
    ("llava", {"size": {"height": 28, "width": 28}, "do_center_crop": False}, (80, 40)),
    ("llava", {"size": 56}, (50, 72)),
    ("qwen2_5_vl", {"max_pixels": 1024}, (120, 60)),
    ("qwen3_vl", {"size": {"shortest_edge": 4096, "longest_edge": 8192}}, (40, 64)),
    ("gemma3", {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 14}, (96, 32)),
    ("gemma3_pan_and_scan", {"pan_and_scan_max_num_crops": 2}, (96, 32)),
    ("internvl", {"max_patches": 2}, (96, 60)),
    ("internvl3_5", {"crop_to_patches": False}, (96, 40)),
]
SHOWN: list[Case] = [("llava_next", {"do_normalize": False}, (50, 40)), ("llava_onevision", {"image_mean": [0.1, 0.2, 0.3]}, (50, 40))]


@cache
def silenced(family: str) -> VLM:
    """A model whose vision tower does not mix patches, so that a token tells only of its own region."""
    vlm = tiny_vlm(family)
    with torch.no_grad():
        for name, module in vlm.hf_model.model.named_modules():
            if "language_model" not in name and name.split(".")[-1] in ("out_proj", "projection_layer", "proj") and "att" in name:
                for weight in module.parameters():
                    weight.zero_()
    return vlm


def picture(size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(90, 150, (size[1], size[0], 3)).astype(np.uint8)


def entering(vlm: VLM, pixels: NDArray[np.uint8]) -> tuple[torch.Tensor, NDArray[np.float64], NDArray[np.int64]]:
    """Image tokens as they enter the first decoder layer, their boxes and their views."""
    encoding = vlm.encode(Sample("s", Image.fromarray(pixels), "what", "one"))
    seen: list[torch.Tensor] = []
    handle = vlm.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        vlm.hf_model(**encoding.inputs)
    handle.remove()
    at = np.flatnonzero(encoding.token_ids == vlm.hf_model.config.image_token_id)
    return seen[0][0, torch.as_tensor(at)], encoding.token_boxes[at], encoding.view[at]


def misplaced(vlm: VLM, size: tuple[int, int], claimed: NDArray[np.float64] | None = None) -> list[int]:
    """Tokens, of a few, that are not the one of their view that moves most when the middle of their claimed box is changed."""
    pixels = picture(size)
    plain, boxes, views = entering(vlm, pixels)
    boxes = boxes if claimed is None else claimed
    found = []
    for token in np.linspace(0, len(boxes) - 1, 6).astype(int):
        x0, y0, x1, y1 = boxes[token]
        changed = pixels.copy()
        middle = changed[int(y0 * 0.7 + y1 * 0.3) : int(y0 * 0.3 + y1 * 0.7) + 1, int(x0 * 0.7 + x1 * 0.3) : int(x0 * 0.3 + x1 * 0.7) + 1]
        middle[:] = 255 - middle // 2
        moved = (entering(vlm, changed)[0] - plain).norm(dim=-1).numpy()
        rivals = np.flatnonzero(views == views[token])
        if moved[token] == 0 or rivals[moved[rivals].argmax()] != token:
            found.append(int(token))
    return found


def with_options(family: str, options: dict[str, Any], base: Callable[[str], VLM] = tiny) -> VLM:
    return VLM(base(family).hf_model, base(family).processor, image_options=options)


@pytest.mark.parametrize(("family", "options", "size"), MOVED, ids=str)
def test_the_geometry_follows_the_settings(family: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    """The map that belongs to the settings is right, by changing the picture under a token; the map without them is another."""
    vlm = with_options(family, options, silenced)
    assert misplaced(vlm, size) == []
    before, after = (entering(each, picture(size))[1] for each in (silenced(family), vlm))
    assert before.shape != after.shape or misplaced(vlm, size, claimed=before) != []


@pytest.mark.parametrize(("family", "options", "size"), MOVED + SHOWN, ids=str)
def test_settings_reach_every_call(family: str, options: dict[str, Any], size: tuple[int, int], recwarn: pytest.WarningsRecorder) -> None:
    """What the model gets is what transformers makes when told the settings at the call; the processor that was given stays as it was."""
    plain, changed = tiny(family), with_options(family, options)
    sample = Sample("s", Image.fromarray(picture(size)), "what", "one")
    before, encoding = plain.encode(sample), changed.encode(sample)
    asked = {"size": {"shortest_edge": 256, "longest_edge": 1024}} if "max_pixels" in options else options
    told = plain.processor(text=[encoding.text], images=[list(encoding.images)], return_tensors="pt", images_kwargs=asked)
    for name, value in encoding.inputs.items():
        if name.startswith(("pixel", "image")):
            assert torch.equal(value, told[name]), name
    assert not torch.equal(before.inputs["pixel_values"], encoding.inputs["pixel_values"])
    assert torch.equal(before.inputs["pixel_values"], plain.encode(sample).inputs["pixel_values"])
    assert changed.image_options == options


@pytest.mark.parametrize(
    ("family", "options", "words"),
    [
        ("gemma3", {"pan_and_scan": True}, r"Image option 'pan_and_scan' is unknown to \w+; use some of .*do_pan_and_scan"),
        ("llava", {"return_tensors": "np"}, "Image option 'return_tensors' is unknown"),
        ("qwen2_5_vl", {"do_resize": "no"}, r"Image options {'do_resize': 'no'} cannot be used \(.*expected bool, got str.*\)"),
        ("qwen2_5_vl", {"size": {"longest_edge": 1024}}, "cannot be used .*'shortest_edge' and 'longest_edge'"),
        ("llava", {"crop_size": 56}, r"arrays of shape \(56, 56\) where the model was built for \(28, 28\)"),
        ("internvl", {"size": 56}, r"arrays of shape \(56, 56\) where the model was built for \(28, 28\)"),
        ("llava_next", {"image_grid_pinpoints": [[28, 56]]}, "'image_grid_pinpoints' differs from the model's own"),
        ("qwen3_vl", {"merge_size": 1}, "'merge_size' differs from the model's own 2"),
        ("llava_next", {"size": {"shortest_edge": 56}}, "do not go with the rest of"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(family: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        with_options(family, options)


def test_settings_are_part_of_what_a_store_holds(saved: Callable[[str], Path], tmp_path: Path) -> None:
    """They are in the provenance, with the processor, and a store begun with others is not taken up."""
    options = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 14}
    vlm = interp.load_vlm(saved("gemma3"), device="cpu", image_options=options)
    bench = samples(1)
    ds = interp.trace(vlm, bench, answers=False, store=tmp_path / "run.zarr")
    assert json.loads(ds.attrs["image_options"]) == options
    assert (ds.attrs["image_backend"], ds.attrs["processor"]) == ("pil", type(vlm.processor).__name__)
    plain = interp.load_vlm(saved("gemma3"), device="cpu")
    assert interp.trace(plain, bench, answers=False).attrs["image_options"] == "{}"
    with pytest.raises(
        StoreError, match=r"begun with other settings \(image_options is '{\"do_pan_and_scan\": true.* there and '{}' here\)"
    ):
        interp.trace(plain, bench, answers=False, store=tmp_path / "run.zarr")


@pytest.mark.parametrize("name", TINY)
def test_the_image_backend_is_the_processor_s_own(name: str) -> None:
    attrs = interp.trace(tiny(name), samples(1), answers=False).attrs
    assert attrs["image_backend"] == "pil"
    assert attrs["image_processor"] == type(tiny(name).processor.image_processor).__name__


def test_the_image_backend_is_asked_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(tiny("llava").processor.image_processor), "backend", "another")
    assert interp.trace(tiny("llava"), samples(1), answers=False).attrs["image_backend"] == "another"


def test_settings_on_the_command_line() -> None:
    asked: dict[str, Any] = {"model": "m", "benchmark": "digits", "out": Path("o")}
    settings = TraceSettings(**asked, image_options='{"do_pan_and_scan": true}')
    assert settings.model_options()["image_options"] == {"do_pan_and_scan": True}
    assert """--image-options '{"do_pan_and_scan": true}' """ in settings.command_line("trace")
    assert TraceSettings(**asked).model_options()["image_options"] is None
    for wrong in ("do_pan_and_scan=true", "[1]", "{"):
        with pytest.raises(ValueError, match="write a JSON object such as"):
            TraceSettings(**asked, image_options=wrong)


def test_without_video_leaves_other_classes_alone() -> None:
    """Nothing to leave out: the same parts."""
    kind = type(tiny("llava").processor)
    assert without_video(kind).get_attributes() == kind.get_attributes()
