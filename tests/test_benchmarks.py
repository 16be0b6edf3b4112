"""`load_benchmark`: one way in, and one clear sentence for every wrong way."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

import interp.benchmarks
from interp.benchmarks import BENCHMARKS, Benchmark, Sample, load_benchmark
from interp.errors import BenchmarkError


class Lazy(Sequence[Sample]):
    """Samples made on demand, that remember which were asked for; indexed by plain integers only."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Any) -> Any:
        assert isinstance(index, int) and 0 <= index < self.n
        self.asked.append(index)
        return Sample(f"s{index}", Image.new("RGB", (4, 4)), "which?", "one")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """A registered benchmark `toy` of up to 10 samples with the option `colour`; yields the calls of its loader."""
    calls: list[dict[str, Any]] = []

    def load(split: str, limit: int | None, *, colour: str = "red") -> Lazy:
        calls.append({"split": split, "limit": limit, "colour": colour})
        return Lazy(0 if colour == "none" else limit or 10)

    module = ModuleType("toy_benchmark")
    module.__dict__["load"] = load
    monkeypatch.setitem(sys.modules, "toy_benchmark", module)
    loader = interp.benchmarks._Loader("toy_benchmark", ("train", "test"))
    monkeypatch.setitem(interp.benchmarks._LOADERS, "toy", loader)
    yield calls


def test_a_loader_gets_split_limit_and_options(toy: list[dict[str, Any]]) -> None:
    bench = load_benchmark("toy", split="train", limit=3, colour="blue")
    assert toy == [{"split": "train", "limit": 3, "colour": "blue"}]
    assert (bench.name, bench.split, len(bench)) == ("toy", "train", 3)
    assert load_benchmark("toy").split == "test"


def test_a_benchmark_is_a_lazy_sequence() -> None:
    samples = Lazy(10)
    bench = Benchmark("toy", "test", samples, {"n_rows": 12})
    part = bench[2:9:3]
    assert samples.asked == []
    assert isinstance(part, Benchmark) and (part.name, part.split, part.report["n_rows"]) == ("toy", "test", 12)
    assert [s.id for s in part] == ["s2", "s5", "s8"]
    assert part[-1].id == "s8" and part[::-1][0].id == "s8" and bench[-1].id == "s9"
    assert len(bench[3:3]) == 0
    with pytest.raises(IndexError):
        part[3]
    assert repr(part) == "Benchmark('toy', split='test', 3 samples)"


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("digit", {}, r"'digit' is unknown; use one of digits, visual-cot"),
        ("toy", {"split": "dev"}, r"'toy' has no split 'dev'; use one of train, test"),
        ("toy", {"limit": 0}, r"limit=0 .* give a positive integer"),
        ("toy", {"limit": -1}, r"limit=-1"),
        ("toy", {"limit": True}, r"limit=True"),
        ("toy", {"limit": 2.0}, r"limit=2.0"),
        ("toy", {"color": "red"}, r"no option 'color'; its options are colour"),
        ("toy", {"colour": "none"}, r"'toy', split 'test', has no samples; choose"),
        ("visual-cot", {}, r"'visual-cot' needs annotations, images; give annotations=\.\.\., images=\.\.\."),
        ("visual-cot", {"annotations": "a.json", "images": None}, r"needs images"),
        ("digits", {"split": "val"}, r"'digits' has no split 'val'; use one of train, validation, profile, test"),
    ],
)
def test_bad_input_gets_one_clear_sentence(name: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(BenchmarkError, match=said) as caught:
        load_benchmark(name, **arguments)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_registered_loader_is_there(name: str) -> None:
    """The registry's module exists and its `load` takes a split and a limit."""
    loader = interp.benchmarks._LOADERS[name]
    module = importlib.import_module(loader.module)
    assert {"split", "limit"} <= set(interp.benchmarks.inspect.signature(module.load).parameters)
