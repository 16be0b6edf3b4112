"""Stores that survive: killed at any moment, shared by processes, refused when damaged, and the same data set in the end."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import xarray as xr
import zarr
from dask.delayed import delayed
from zarr.storage import LocalStore

import interp
from interp.capture import layout, open_trace
from interp.capture.schema import fault
from interp.capture.store import Plan, Planned, Store, open_store
from interp.errors import BenchmarkError, InterpError, StoreError
from interp.testing import samples, tiny_vlm, traces
from interp.vlm import VLM

N, BATCH = 24, 3
VARYING = ["seconds"]  # the only variable that two runs do not share

# One process imports everything once; each life of a run is a fork of it. It tells of its steps by a byte each.
RUNNER = """
import json, os, sys
import torch
torch.set_num_threads(1)
import interp
from interp.capture import layout
from interp.capture.store import Store
from interp.testing import samples, tiny_vlm
from interp.vlm import VLM

vlm, N, BATCH = tiny_vlm(), int(sys.argv[1]), int(sys.argv[2])
interp.trace(vlm, samples(2), max_new_tokens=3, progress=False)  # whatever is set up on first use

def announce(owner, name, before, after, log):
    inner = getattr(owner, name)
    def told(*args, **kwargs):
        os.write(log, before)
        result = inner(*args, **kwargs)
        os.write(log, after)
        return result
    setattr(owner, name, told)

def live(job):
    log = os.open(job["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    announce(VLM, "encode", b"e", b"", log)
    announce(layout, "create", b"p", b"P", log)
    announce(Store, "write", b"", b"w", log)
    announce(Store, "seal", b"s", b"S", log)
    options = {"batch_size": BATCH, "max_new_tokens": 3, "queries": "answer", "progress": False}
    interp.trace(vlm, samples(N), store=job["store"], shard=job["shard"], **options)

for line in sys.stdin:
    job = json.loads(line)
    if "wait" in job:
        print(os.waitpid(job["wait"], 0)[1], flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        try:
            live(job)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    print(pid, flush=True)
"""


class Runner:
    """Lives of one traced run, in processes that can be killed."""

    def __init__(self, folder: Path) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", RUNNER, str(N), str(BATCH)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.folder = folder
        self.lives = 0

    def ask(self, **job: Any) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, store: Path, shard: str | None = None) -> tuple[int, Path]:
        """A life: its process id, and the file that its steps are told in."""
        self.lives += 1
        log = self.folder / f"log-{self.lives}"
        log.touch()
        return self.ask(store=str(store), shard=shard, log=str(log)), log

    def wait(self, pid: int) -> int:
        """The exit code, negative for a signal."""
        return os.waitstatus_to_exitcode(self.ask(wait=pid))


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    made = Runner(tmp_path_factory.mktemp("runner"))
    with made.process:  # closes its pipes, which ends it
        yield made


@pytest.fixture(scope="module")
def undisturbed(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbed."""
    path = tmp_path_factory.mktemp("undisturbed") / "run.zarr"
    pid, _ = runner.start(path)
    assert runner.wait(pid) == 0
    return path


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return tiny_vlm()


@pytest.fixture(scope="module")
def finished(vlm: VLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "run.zarr"
    interp.trace(vlm, samples(5), batch_size=2, max_new_tokens=3, store=path, resume_command="interp trace --out run.zarr")
    return path


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy.zarr"))


def files(store: Path) -> list[str]:
    """Every file beside and in a store."""
    return sorted(path.relative_to(store.parent).as_posix() for path in store.parent.rglob("*") if path.is_file())


def same(one: Path, other: Path) -> None:
    """The identical data set, bit by bit, and the same files."""
    first, second = (open_trace(path).drop_vars(VARYING).load() for path in (one, other))
    first.attrs["created"] = second.attrs["created"]
    xr.testing.assert_identical(first, second)
    for name in first.variables:
        if first[name].dtype.kind == "f":  # assert_identical takes 0.0 for -0.0
            assert first[name].values.tobytes() == second[name].values.tobytes()
    assert files(one) == files(other)


# ------------------------------------------------------------------------------------------------------- killed and shared


def test_killed_twenty_times_it_ends_with_the_identical_data_set(runner: Runner, undisturbed: Path, tmp_path: Path) -> None:
    """SIGKILL in planning, capture and sealing, a random while after a random step; each time at most the sample in flight is lost."""
    rng = np.random.default_rng(0)
    path = tmp_path / "run.zarr"
    # step, how often it is met, and the longest wait after it in seconds
    planning = [("e", int(k), 0.01) for k in rng.integers(1, N, 3)] + [("p", 1, 0.3)] * 4
    capture = [("w", int(k), 0.02) for k in rng.integers(1, 5, 7)]
    sealing = [("s", 1, 0.4)] * 6
    kills, done, phases = 0, 0, set[str]()
    for step, times, longest in [*planning, *capture, *sealing]:
        while True:
            pid, log = runner.start(path)
            while log.read_text().count(step) < times and "S" not in log.read_text():
                time.sleep(0.001)
            time.sleep(rng.uniform(0, longest))
            os.kill(pid, signal.SIGKILL)
            ended = runner.wait(pid)
            told = log.read_text()
            if ended == -signal.SIGKILL and "S" not in told:
                break
            # this life was quicker than its killer: its store is finished and right, and another one begins
            runner.wait(runner.start(path)[0])
            same(path, undisturbed)
            shutil.rmtree(path)
            done = 0
        kills += 1
        if not path.exists():
            assert "P" not in told
            phases.add("planning")
            continue
        before, done = done, Store(path).progress[0]
        assert done >= before + told.count("w")
        phases.add("sealing" if "s" in told else "capture")
        if not Store(path).sealed:  # the last rename of sealing may have been made
            with pytest.raises(
                StoreError, match=rf"is not finished \({done} of {N} samples are done\); take it up again with: interp.trace\("
            ):
                open_trace(path)
    assert kills == 20 and phases == {"planning", "capture", "sealing"}
    assert runner.wait(runner.start(path)[0]) == 0
    same(path, undisturbed)


@pytest.mark.parametrize("shards", [("0/2", "1/2"), (None, None)])
def test_two_processes_fill_one_store(runner: Runner, undisturbed: Path, tmp_path: Path, shards: tuple[str | None, str | None]) -> None:
    path = tmp_path / "run.zarr"
    lives = [runner.start(path, shard) for shard in shards]
    assert [runner.wait(pid) for pid, _ in lives] == [0, 0]
    wrote = [log.read_text().count("w") for _, log in lives]
    assert wrote == [N // 2, N // 2] or shards == (None, None)
    same(path, undisturbed)


def test_a_shard_alone_returns_its_samples(vlm: VLM, tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    options: dict[str, Any] = {"batch_size": 2, "max_new_tokens": 3}
    whole = interp.trace(vlm, samples(5), **options)
    part = interp.trace(vlm, samples(5), store=path, shard="1/2", **options)
    assert part["sample"].values.tolist() == ["synthetic-0-2", "synthetic-0-3"]
    assert part.attrs["store_state"] == "shard 1/2 only; 2 of 5 samples of the store are done"
    equal(part, whole.isel(sample=[2, 3]))
    with pytest.raises(StoreError, match="2 of 5 samples are done") as error:
        open_trace(path)
    assert "shard=" not in str(error.value), "whoever resumes it finishes it"
    equal(interp.trace(vlm, samples(5), store=path, shard="0/2", **options), whole)


# ------------------------------------------------------------------------------------------------------- content


def equal(stored: xr.Dataset, memory: xr.Dataset, atol: float = 2.0**-11) -> None:
    """A stored trace is the one in memory; half precision costs attention its last digits."""
    stored = stored.drop_vars(VARYING).load()
    memory = memory.drop_vars(VARYING)
    rows = [name for name in ("attention", "attention_rows") if name in memory]
    for name in rows:
        assert stored[name].dtype == np.float32 and stored[name].attrs == memory[name].attrs
        assert (np.isnan(stored[name].values) == np.isnan(memory[name].values)).all()
        np.testing.assert_allclose(stored[name], memory[name], atol=atol)
    xr.testing.assert_identical(stored.drop_vars(rows).drop_attrs(deep=False), memory.drop_vars(rows).drop_attrs(deep=False))


@pytest.mark.parametrize(
    "options",
    [{}, {"queries": "answer", "residual": True}, {"queries": "question", "answers": False}, {"queries": [0, -1], "prompt": "vea"}],
    ids=str,
)
def test_a_store_holds_what_memory_holds(vlm: VLM, tmp_path: Path, options: dict[str, Any]) -> None:
    bench = samples(5)
    memory = interp.trace(vlm, bench, batch_size=2, max_new_tokens=3, settings={"note": "x"}, **options)
    stored = interp.trace(vlm, bench, batch_size=2, max_new_tokens=3, settings={"note": "x"}, store=tmp_path / "run.zarr", **options)
    assert stored["attention"].chunks is not None, "the large array is lazy"
    equal(stored, memory)
    equal(open_trace(tmp_path / "run.zarr"), memory)
    assert {**stored.attrs, "created": ""} == {**memory.attrs, "created": ""}
    assert json.loads(stored.attrs["settings"]) == {"note": "x"}


def test_single_precision_is_kept_exactly(vlm: VLM, tmp_path: Path) -> None:
    stored = interp.trace(vlm, samples(3), answers=False, store=tmp_path / "run.zarr", store_dtype="float32")
    equal(stored, interp.trace(vlm, samples(3), answers=False), atol=0)


def test_no_regions_no_knobs_two_pictures(vlm: VLM, tmp_path: Path) -> None:
    bench = [interp.Sample(f"s{i}", [samples(1)[0].images[0]] * 2, "what is it ?", "one") for i in range(2)]
    equal(interp.trace(vlm, bench, max_new_tokens=2, store=tmp_path / "run.zarr"), interp.trace(vlm, bench, max_new_tokens=2))


def test_a_part_is_read_alone(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner, read = LocalStore.get, list[int]()

    async def counted(self: LocalStore, *args: Any, **kwargs: Any) -> Any:
        found = await inner(self, *args, **kwargs)
        read.append(0 if found is None else len(found))
        return found

    ds = open_trace(finished)
    monkeypatch.setattr(LocalStore, "get", counted)
    whole = ds["attention"].values
    everything, read[:] = sum(read), []
    assert np.array_equal(ds["attention"].isel(layer=2, head=1), whole[:, 2, 1], equal_nan=True)
    assert sum(read) < 0.5 * everything
    chosen = ds["attention"].isel(sample=[4, 0], layer=1, token=[3, 1])
    assert np.array_equal(chosen, whole[[4, 0], 1][:, :, [3, 1]])


def test_opening_needs_no_torch(finished: Path) -> None:
    code = (
        "import sys; from interp.capture.store import open_trace; ds = open_trace(sys.argv[1]);"
        "print(float(ds['attention'].sum('token').mean()), float(ds['exact_match'].mean()), *ds['prediction'].values.tolist());"
        "sys.exit(' '.join({'torch', 'transformers', 'nnsight'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, str(finished)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[0]) == pytest.approx(1, abs=1e-3)


# ------------------------------------------------------------------------------------------------------- resuming


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that went through the model."""
    from interp.capture import batch

    inner, seen = batch.prefill, list[int]()

    def counted(vlm: Any, encodings: Any, **options: Any) -> Any:
        seen.append(len(encodings))
        return inner(vlm, encodings, **options)

    monkeypatch.setattr(batch, "prefill", counted)
    return seen


def interrupted(vlm: VLM, path: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of five samples in batches of two, stopped after some were written."""
    inner, count = Store.write, iter(range(after))

    def stopping(self: Store, *args: Any) -> None:
        if next(count, None) is None:
            raise KeyboardInterrupt
        inner(self, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "write", stopping)
        interp.trace(vlm, samples(5), batch_size=2, max_new_tokens=3, store=path, resume_command="interp trace --out run.zarr")


def test_only_what_is_missing_is_done_again(
    vlm: VLM, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: list[int]
) -> None:
    path = tmp_path / "run.zarr"
    interrupted(vlm, path, 3, monkeypatch)
    passes.clear()
    with pytest.raises(StoreError, match=r"\(3 of 5 samples are done\); take it up again with: interp trace --out run.zarr"):
        open_trace(path)
    interp.trace(vlm, samples(5), batch_size=2, max_new_tokens=3, store=path)
    assert passes == [2, 1], "the second batch, of which a sample was missing, whole, and the last"
    same(path, finished)
    interp.trace(vlm, samples(5), batch_size=2, max_new_tokens=3, store=path)
    assert passes == [2, 1], "a finished store is opened and no more"


@pytest.mark.parametrize("harm", [Path.unlink, lambda file: file.write_bytes(b"")], ids=["gone", "empty"])
def test_a_sample_whose_file_is_gone_or_empty_is_done_again(
    vlm: VLM, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], Any]
) -> None:
    path = tmp_path / "run.zarr"
    interrupted(vlm, path, 3, monkeypatch)
    harm(path / "trace" / "attention" / "c.0.0.0.0")
    assert Store(path).todo().tolist() == [0, 3, 4]
    interp.trace(vlm, samples(5), batch_size=2, max_new_tokens=3, store=path)
    same(path, finished)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prompt": "vea"}, ["prompt is 'base' there and 'vea' here"]),
        ({"batch_size": 3, "max_new_tokens": 4}, ["batch_size is 2 there and 3 here", "max_new_tokens is 3 there and 4 here"]),
        ({"answers": False}, ["answers is True there and False here"]),
        ({"queries": "question"}, ["queries is [] there and 'question' here"]),
        ({"store_dtype": "float32"}, ["store_dtype is 'float16' there and 'float32' here"]),
    ],
    ids=str,
)
def test_other_settings_are_refused_by_name(vlm: VLM, finished: Path, changed: dict[str, Any], words: list[str]) -> None:
    before = files(finished)
    with pytest.raises(StoreError, match="was begun with other settings") as error:
        interp.trace(vlm, samples(5), **{"batch_size": 2, "max_new_tokens": 3, "store": finished, **changed})
    for word in words:
        assert word in str(error.value)
    assert str(error.value).count(" there and ") == len(words)
    assert files(finished) == before


def test_another_model_or_benchmark_is_refused(vlm: VLM, finished: Path) -> None:
    options: dict[str, Any] = {"batch_size": 2, "max_new_tokens": 3, "store": finished}
    with pytest.raises(StoreError, match=r"samples is '5 samples, \w+' there and '4 samples, \w+' here"):
        interp.trace(vlm, samples(4), **options)
    with pytest.raises(StoreError, match=r"samples is '5 samples, \w+' there and '5 samples, \w+' here"):
        interp.trace(vlm, samples(5, seed=1), **options)
    with pytest.raises(StoreError, match="prompt_order is 'image-first' there and 'question-first' here"):
        interp.trace(tiny_vlm(prompt_order="question-first"), samples(5), **options)


def repainted(*places: int) -> list[interp.Sample]:
    """The five samples, asked the same, some of them about a picture of another colour."""
    bench = samples(5)
    for k in places:
        one = bench[k]
        other = one.open_images()[0].point(lambda level: 255 - level)
        bench[k] = interp.Sample(
            one.id,
            other,
            one.question,
            one.references,
            one.regions,
            image_id=one.image_id,
            dataset=one.dataset,
            split=one.split,
            knobs=one.knobs,
        )
    return bench


def test_other_pictures_are_refused(vlm: VLM, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.zarr"
    interrupted(vlm, path, 2, monkeypatch)  # the first batch of two
    before = files(path)
    options: dict[str, Any] = {"batch_size": 2, "max_new_tokens": 3}
    with pytest.raises(StoreError, match=r"run.zarr' was begun with another picture of sample 'synthetic-0-3'; use the pictures"):
        interp.trace(vlm, repainted(3), store=path, **options)
    assert files(path) == before, "nothing of the batch was written"
    for place in (0, 2, 4):
        with pytest.raises(StoreError, match=f"another picture of sample 'synthetic-0-{place}'"):
            interp.trace(vlm, repainted(place), store=finished, **options)
    assert interp.trace(vlm, repainted(1), store=finished, **options).sizes["sample"] == 5, "the limit that the docstring names"
    equal(interp.trace(vlm, samples(5), store=path, **options), open_trace(finished), atol=0)


def test_another_sample_of_a_batch_that_is_redone_is_compared_too(vlm: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.zarr"
    interrupted(vlm, path, 2, monkeypatch)
    (path / "trace" / "attention" / "c.0.0.0.0").unlink()
    with pytest.raises(StoreError, match="another picture of sample 'synthetic-0-1'"):
        interp.trace(vlm, repainted(1), batch_size=2, max_new_tokens=3, store=path)


# ------------------------------------------------------------------------------------------------------- damage


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


def renamed(store: Path) -> None:
    """A wrong dimension name that the array and the root agree on."""
    edit(store / "trace/coverage/zarr.json", lambda meta: meta.update(dimension_names=["sample", "word"]))
    edit(
        store / "zarr.json",
        lambda meta: meta["consolidated_metadata"]["metadata"]["trace/coverage"].update(dimension_names=["sample", "word"]),
    )


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(file: Path) -> None:
    """One bit in the middle of the file's first chunk."""
    content = bytearray(file.read_bytes())
    content[len(content) // 8] ^= 4
    file.write_bytes(content)


def worse_than_certain(store: Path) -> None:
    zarr.open_array(store, path="scores/reference_logprob", mode="r+")[1] = 0.5


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "root": (lambda store: (store / "zarr.json").write_text('{"attributes": {'), "its zarr.json cannot be read"),
    "group": (lambda store: shutil.rmtree(store / "scores"), "group 'scores' is missing"),
    "variable": (lambda store: shutil.rmtree(store / "trace/question"), "array 'trace/question' is missing"),
    "broken metadata": (lambda store: (store / "trace/attention/zarr.json").write_text("{"), "zarr.json of 'trace/attention' is no JSON"),
    "dimensions": (
        lambda store: edit(store / "trace/coverage/zarr.json", lambda meta: meta.update(dimension_names=["token", "sample"])),
        "zarr.json of 'trace/coverage' was changed",
    ),
    "wrong dimensions": (renamed, "coverage: dim position 1: expected 'token', got 'word'"),
    "marker": (lambda store: (store / "capture/done/c.3").unlink(), "'capture/done' lacks 1 of its 5 chunk files"),
    "attention": (lambda store: (store / "trace/attention/c.3.0.0.0").unlink(), "'trace/attention' lacks 1 of its 5 chunk files"),
    "empty marker": (lambda store: (store / "capture/done/c.3").write_bytes(b""), "'capture/done' lacks 1 of its 5 chunk files"),
    "empty attention": (
        lambda store: (store / "trace/attention/c.3.0.0.0").write_bytes(b""),
        "'trace/attention' lacks 1 of its 5 chunk files (missing or empty)",
    ),
    "empty text": (lambda store: (store / "trace/question/c.0").write_bytes(b""), "'trace/question' lacks 1 of its 1 chunk files"),
    "truncated score": (lambda store: truncated(store / "scores/entropy/c.0"), "'entropy' cannot be read ("),
    "truncated names": (lambda store: truncated(store / "trace/sample/c.0"), "it cannot be opened ("),
    "range": (worse_than_certain, "reference_logprob: outside -inf to 0"),
    "provenance": (lambda store: edit(store / "zarr.json", lambda meta: meta["attributes"].pop("identity")), "that interp did not write"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_store_is_refused_in_one_sentence(copy: Path, case: str) -> None:
    harm, words = DAMAGE[case]
    open_trace(copy)
    harm(copy)
    with pytest.raises(StoreError) as error:
        open_trace(copy)
    said = str(error.value)
    assert words in said and str(copy) in said and "\n" not in said


@pytest.mark.parametrize("harm", [truncated, flipped])
@pytest.mark.parametrize(
    ("name", "file"),
    [("attention", "c.3.0.0.0"), ("answer_ids", "c.3.0"), ("coverage", "c.0.0"), ("question", "c.0"), ("segment", "c.0.0")],
)
def test_a_damaged_chunk_is_one_sentence_where_it_is_read(copy: Path, name: str, file: str, harm: Callable[[Path], None]) -> None:
    harm(copy / "trace" / name / file)
    ds = open_trace(copy)
    for act in (lambda: ds[name].values, lambda: ds[name].sel(sample="synthetic-0-3").load(), lambda: ds[name].isel(sample=[3, 1]).load()):
        with pytest.raises(StoreError) as error:
            act()
        said = str(error.value)
        assert f"Store {str(copy)!r} is damaged: {name!r} cannot be read (" in said and "\n" not in said
        assert said.endswith("restore it from a copy, or delete it and make it again with: interp trace --out run.zarr")
    if name in ("attention", "answer_ids"):
        assert ds[name].isel(sample=2).load().sizes, "the other samples can be read"


@pytest.mark.parametrize("act", [lambda ds: interp.profile_layers(ds), lambda ds: interp.analysis.rapt(ds)], ids=["profile", "rapt"])
def test_an_analysis_of_a_damaged_trace_ends_in_one_sentence(copy: Path, act: Callable[[xr.Dataset], Any]) -> None:
    act(open_trace(copy))
    truncated(copy / "trace/attention/c.3.0.0.0")
    with pytest.raises(StoreError, match=r"'attention' cannot be read \("):
        act(open_trace(copy))


def test_what_is_read_from_a_store_can_be_chosen_in_every_way(finished: Path) -> None:
    ds, whole = open_trace(finished), open_trace(finished).load()
    points = {"sample": xr.DataArray([4, 0, 4], dims="point"), "token": xr.DataArray([1, 2, 0], dims="point")}
    for name in ("coverage", "segment", "token_text", "token_box"):
        for how in ({"sample": 2}, {"sample": [3, 1]}, {"sample": slice(1, None, 2), "token": [5, 0]}, {"sample": 0, "token": -1}, points):
            xr.testing.assert_identical(ds[name].isel(how).load(), whole[name].isel(how))


def test_a_lazy_trace_can_be_copied_changed_and_sent(finished: Path) -> None:
    ds, whole = open_trace(finished), open_trace(finished).load()
    xr.testing.assert_identical(pickle.loads(pickle.dumps(ds)).load(), whole)
    copied = ds.copy(deep=True)
    copied["entropy"][0] = 9.0
    assert float(copied["entropy"][0]) == 9 and float(ds["entropy"][0]) == float(whole["entropy"][0])


def test_what_is_no_store_is_refused(vlm: VLM, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        open_trace(tmp_path / "gone.zarr")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep")
    for act in (lambda: open_trace(tmp_path / "mine"), lambda: interp.trace(vlm, samples(1), store=tmp_path / "mine")):
        with pytest.raises(StoreError, match="is no store"):
            act()
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "keep"
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(StoreError, match="that interp did not write"):
        open_trace(tmp_path / "other.zarr")
    with pytest.raises(StoreError, match=r"holds a trace \(interp.trace\), not answers \(interp.evaluate\)"):
        open_store(finished, "answers")


def test_where_no_store_can_be_made_or_written(vlm: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("keep")
    with pytest.raises(StoreError, match="cannot be made"):
        Store.resume_or_plan(tmp_path / "file" / "a.zarr", "answers", {}, small, "")
    store = Store.resume_or_plan(tmp_path / "a.zarr", "answers", {}, small, "interp evaluate")

    async def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises(StoreError, match=r"\(No space left on device\); make room, then .* interp evaluate"),
    ):
        patch.setattr(LocalStore, "set", full)
        store.write(0, said([[1], [2]]))
    assert store.todo().tolist() == [0, 1, 2]
    (tmp_path / "a.zarr/answers/ids/zarr.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged: it cannot be read"):
        store.todo()


def test_the_schema_is_checked_without_reading_attention() -> None:
    def touched() -> np.ndarray:
        raise AssertionError("attention was read")

    made = traces()
    shape = made["attention"].shape
    lazy = dask.array.from_delayed(delayed(touched)(), shape, np.float32)
    with pytest.raises(AssertionError, match="was read"):
        lazy.compute()
    assert fault(made.assign(attention=(made["attention"].dims, lazy))) is None
    assert fault(made.assign(attention=(made["attention"].dims, lazy), entropy=-made["entropy"])) == "entropy: outside 0 to inf"


def test_the_schema_names_what_is_wrong() -> None:
    made = traces()
    assert fault(made) is None
    assert fault(made.drop_vars("attention")) == "data set: missing required data_var 'attention'"
    assert "attention: expected dtype float32" in str(fault(made.assign(attention=made["attention"].astype("float64"))))
    assert "exact_match: outside 0 to 1" in str(fault(made.assign(exact_match=made["exact_match"] + 1)))
    del made.attrs["prompt_order"]
    assert fault(made) == "attribute 'prompt_order' is missing"


# ------------------------------------------------------------------------------------------------------- the store by itself


def small(n: int = 3) -> Plan:
    static = xr.Dataset({"name": ("sample", np.array([f"s{i}" for i in range(n)], dtype=np.dtypes.StringDType()))})
    captured = {
        "answers/ids": Planned(("sample", "method", "step"), (n, 2, 4), "int64", -1, {"long_name": "ids"}),
        "maps/attention": Planned(("sample", "layer", "head", "token"), (n, 2, 2, 3), "float16", np.nan),
    }
    return Plan({"answers": static}, captured)


def said(ids: Any) -> dict[str, np.ndarray]:
    """One sample's ids, beside a map that has no number in it."""
    return {"answers/ids": np.asarray(ids), "maps/attention": np.full((2, 2, 3), np.nan)}


def score(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    return {"answers": xr.Dataset({"n": (tree["answers"].to_dataset()["ids"] >= 0).sum(["method", "step"])})}


def test_any_kind_of_plan(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.zarr"
    store = Store.resume_or_plan(path, "answers", {"alpha": 0.5, "methods": ("base", "vea")}, small, "interp evaluate")
    assert store.progress == (0, 3) and not store.sealed
    store.write(1, said([[5, 3], [7, 3]]))
    assert store.todo().tolist() == [0, 2]
    with pytest.raises(StoreError, match=r"\(1 of 3 samples are done\); take it up again with: interp evaluate"):
        store.seal(score)
    again = Store.resume_or_plan(path, "answers", {"alpha": 0.5, "methods": ["base", "vea"]}, lambda: pytest.fail("planned twice"), "")
    for index in again.todo():
        again.write(int(index), said(np.full((2, 0), 0)))
    again.seal(score)
    store.seal(lambda tree: pytest.fail("sealed twice"))
    kept = open_store(path, "answers")["answers"].to_dataset()
    assert kept["n"].values.tolist() == [0, 4, 0]
    assert kept["ids"].values[1].tolist() == [[5, 3, -1, -1], [7, 3, -1, -1]]
    assert kept["ids"].attrs == {"long_name": "ids"}
    assert kept["name"].values.tolist() == ["s0", "s1", "s2"]
    with pytest.raises(StoreError, match=r"alpha is 0.5 there and 1.0 here; beta is None there and 2 here"):
        Store.resume_or_plan(path, "answers", {"alpha": 1.0, "methods": ["base", "vea"], "beta": 2}, small, "")


def test_what_was_not_planned_cannot_be_written(tmp_path: Path) -> None:
    store = Store.resume_or_plan(tmp_path / "a.zarr", "answers", {}, small, "")
    with pytest.raises(StoreError, match=r"room for \(2, 4\) of 'answers/ids' per sample, not \(2, 5\)"):
        store.write(0, said(np.zeros((2, 5))))
    with pytest.raises(StoreError, match="not more or fewer"):
        store.write(0, {})
    assert store.progress == (0, 3)


def test_who_plans_second_uses_the_first_plan(tmp_path: Path) -> None:
    """Two processes that start together: while this one plans, another one's store appears, and sweeps."""
    path = tmp_path / "a.zarr"

    def overtaken() -> Plan:
        Store.resume_or_plan(path, "answers", {}, small, "quicker")
        return small()

    store = Store.resume_or_plan(path, "answers", {}, overtaken, "slower")
    store.write(0, said(np.zeros((2, 1))))
    assert json.loads((path / "zarr.json").read_text())["attributes"]["resume"] == "quicker"
    assert [found.name for found in tmp_path.iterdir()] == ["a.zarr"]


def test_a_failed_plan_leaves_nothing(vlm: VLM, tmp_path: Path) -> None:
    with pytest.raises(InterpError, match="Query position 999 is outside a prompt"):
        interp.trace(vlm, samples(2), queries=[999], store=tmp_path / "run.zarr")
    with pytest.raises(BenchmarkError, match="occurs more than once"):
        interp.trace(vlm, samples(1) * 2, store=tmp_path / "run.zarr")
    with pytest.raises(InterpError, match="store_dtype='int8' is not understood"):
        interp.trace(vlm, samples(1), store=tmp_path / "run.zarr", store_dtype="int8")
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    left = tmp_path / f".a.zarr.{'0' * 32}.partial"
    left.mkdir()
    (tmp_path / ".b.zarr.partial").mkdir()
    store = Store.resume_or_plan(path, "answers", {}, small, "")
    assert not left.exists()
    for index in range(3):
        store.write(index, said(np.zeros((2, 1))))
    (path / "answers/ids/c.1.0.0123.partial").write_bytes(b"torn")
    store.seal(score)
    assert not list(path.rglob("*.partial"))
    assert (tmp_path / ".b.zarr.partial").exists(), "not ours"
    assert layout.damage(path) is None
