"""What artefacts share for one model: its samples, traces, profile, answers and probes, each made once and kept below ``.cache``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

import interp
from experiments.artefacts.storing import store
from interp.analysis import Profile, fit_probe, probe_layers, readable
from interp.benchmarks import load_benchmark
from interp.errors import BenchmarkError, InterpError, StoreError
from interp.reproduce import ReproduceSettings

Order = Literal["image-first", "question-first"]
Part = Literal["judged", "profile", "train"]

ORDERS: tuple[Order, Order] = ("image-first", "question-first")
JUDGED, FITTED, TRAINED = 500, 200, 1500  # samples: judged, to fit layers on, to fit probes on
_IN_MEMORY = 1 << 30  # bytes of attention that a trace may have to be read whole


class Context:
    """One model with everything an artefact may ask of it.

    Traces and answers are resumable stores of `interp`, so that artefacts of one run, and of later ones, share every forward pass.

    Parameters
    ----------
    model
        Its name.
    settings
        Of the run.
    resume
        The command that takes an interrupted run up again.
    progress
        Force progress bars on or off.
    """

    def __init__(self, model: str, settings: ReproduceSettings, *, resume: str = "interp reproduce", progress: bool | None = None) -> None:
        self.model = model
        self.settings = settings
        self.order: Order = settings.prompt_order
        self._resume, self._progress = resume, progress
        self._vlms: dict[str, interp.VLM] = {}
        self._kept: dict[tuple[Any, ...], Any] = {}
        self.identity = self._identity()
        key = hashlib.sha256(json.dumps({**self.identity, "batch_size": settings.batch_size}, sort_keys=True).encode()).hexdigest()[:10]
        self.cache = settings.out / ".cache" / f"{slug(model)}-{key}"

    @property
    def seed(self) -> int:
        """For what is drawn at random."""
        return self.settings.seed

    def vlm(self, order: Order | None = None) -> interp.VLM:
        """The model in a prompt order (by default the run's); both orders share its weights."""
        wanted = order or self.order
        if not self._vlms:
            loaded = interp.load_vlm(self.model, **self.settings.model_options())
            self._vlms[loaded.prompt_order] = loaded
        if wanted not in self._vlms:
            base = next(iter(self._vlms.values()))
            self._vlms[wanted] = interp.VLM(
                base.hf_model, base.processor, wanted, name=base.name, revision=base.revision, image_options=base.image_options or None
            )
        return self._vlms[wanted]

    def close(self) -> None:
        """Let go of the model, which is loaded again when it is needed."""
        self._vlms.clear()

    def samples(self, part: Part = "judged", n: int | None = None) -> Sequence[interp.Sample]:
        """Samples of a part of the benchmark, the first `n`; no picture is in two parts.

        ``judged`` is what results are of, ``profile`` what layers are fitted on. A benchmark without a split ``profile`` gives its first
        pictures to that (a quarter of the samples at most), and the rest is judged. ``train`` is the split of that name.

        Raises
        ------
        BenchmarkError
            The benchmark or its split is unknown, or there is no such part.
        """
        key = ("samples", part)
        if key not in self._kept:
            self._kept[key] = self._part(part)
        found = self._kept[key]
        return found if n is None else found[:n]

    def trace(self, part: Part = "judged", order: Order | None = None, n: int | None = None) -> xr.Dataset:
        """The trace of a part, with answers; in memory where it is small. One forward pass per sample, made once."""
        wanted = order or self.order
        key = ("trace", part, wanted)
        if key not in self._kept:
            bench = self.samples(part)
            path = self.cache / f"trace-{part}-{wanted}-{len(bench)}.zarr"
            ds = self._finished(path)
            if ds is None:
                self.cache.mkdir(parents=True, exist_ok=True)
                ds = interp.trace(
                    self.vlm(wanted),
                    bench,
                    batch_size=self.settings.batch_size,
                    max_new_tokens=self.settings.max_new_tokens,
                    store=path,
                    resume_command=self._resume,
                    progress=self._progress,
                )
            small = ds["attention"].nbytes <= _IN_MEMORY
            self._kept[key] = (ds.load() if small else ds).assign_attrs(seed=self.seed)
        found = self._kept[key]
        return found if n is None else found.isel(sample=slice(n))

    def profile(self, order: Order | None = None) -> Profile:
        """The visual-grounding layers, fitted on the part ``profile`` (a tenth of the layers, as in the paper)."""
        key = ("fitted", order or self.order)
        if key not in self._kept:
            self._kept[key] = interp.profile_layers(self.trace("profile", order))
        return self._kept[key]

    def answers(
        self, methods: Sequence[str], n: int | None = None, order: Order | None = None, *, profiled: bool = True, **options: Any
    ) -> xr.Dataset:
        """Answers (method, sample) to the first `n` judged samples; a method that another artefact asked for with the same options is read.

        Parameters
        ----------
        methods
            Names that `interp.evaluate` knows.
        n
            By default all judged samples.
        order
            Of the prompt.
        profiled
            Give `interp.evaluate` the profile; without it only methods that need no map can be asked.
        options
            Further arguments of `interp.evaluate`, JSON-able (`alpha`, `sigma`, `lam`, `variant`).
        """
        bench, wanted = self.samples("judged", n), order or self.order
        asked = {"n": len(bench), "order": wanted, "profiled": profiled, **options}
        folder = self.cache / ("answers-" + hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:10])
        folder.mkdir(parents=True, exist_ok=True)
        plans = {path: json.loads(path.read_text(encoding="utf-8"))["methods"] for path in sorted(folder.glob("*.json"))}
        covered = {name for names in plans.values() for name in names}
        missing = [name for name in methods if name not in covered]
        if missing:
            plan = folder / (hashlib.sha256(json.dumps(missing).encode()).hexdigest()[:10] + ".json")
            plan.write_text(json.dumps({**asked, "methods": missing}), encoding="utf-8")
            plans[plan] = missing
        parts = []
        for plan, names in plans.items():
            if set(names).isdisjoint(methods):
                continue
            profile = self.profile(wanted) if profiled else None
            parts.append(self.evaluated(plan.with_suffix(".zarr"), bench, names, self.vlm(wanted), profile, **options))
        return joined(parts, methods)

    def evaluated(
        self, store: Path, bench: Sequence[interp.Sample], methods: Sequence[Any], vlm: interp.VLM, profile: Profile | None, **options: Any
    ) -> xr.Dataset:
        """`interp.evaluate` into a store of its own, with the run's settings; opened and loaded once in a run."""
        key = ("evaluated", store)
        if key not in self._kept:
            found = interp.evaluate(
                vlm,
                bench,
                methods,
                profile,
                batch_size=self.settings.batch_size,
                max_new_tokens=self.settings.max_new_tokens,
                seed=self.seed,
                store=store,
                resume_command=self._resume,
                progress=self._progress,
                **options,
            )
            self._kept[key] = found.load().assign_attrs(seed=self.seed)
        return self._kept[key]

    def probes(self, order: Order | None = None) -> tuple[xr.Dataset, xr.Dataset] | str:
        """What can be read of the evidence: `readable` of a probe at the entrance, and `probe_layers`; or why it is not known.

        Fitted on training scenes in which nothing but the marks foretells the answer.
        """
        wanted = order or self.order
        stores = [self.cache / f"{name}-{wanted}.zarr" for name in ("readable", "probes")]
        bench = self.samples("judged")
        if not any(region.text for sample in bench for region in sample.evidence):
            return "no region of these samples has a text"
        if not all(path.exists() for path in stores):
            try:
                training = self.samples("train")
            except BenchmarkError:
                return "there is no split train to fit a probe on"
            judged_on = {sample.image_id for sample in bench}
            fair = [s for s in training if s.knobs.get("prior_digit", -1) == -1 and s.image_id not in judged_on]
            if not fair:
                return "no picture of split train is free of a prior and not judged itself"
            sizes: dict[str, Any] = {"batch_size": self.settings.batch_size, "progress": self._progress}
            fitted, judged = (interp.token_features(self.vlm(wanted), each, layers=True, **sizes) for each in (fair, bench))
            entrance = [each.isel(layer=0, drop=True).drop_vars("last") for each in (fitted, judged)]
            try:
                read = readable(fit_probe(entrance[0], roles=("evidence",)), entrance[1])
                by_layer = probe_layers(fitted, judged, seed=self.seed)
            except InterpError as error:
                return str(error).rstrip(".")
            for found, path in zip((read, by_layer), stores, strict=True):
                store(found.assign_attrs(n_training=len(fair)), path)
        first, second = (xr.open_zarr(path, consolidated=False, chunks=None).load() for path in stores)
        return first, second

    def described(self, n: int | str, part: str = "judged") -> str:
        """Model, benchmark, split, n and seed, as every caption names them; `part` as of `samples`."""
        whole = self.settings.split or ("all rows" if self.settings.benchmark == "jsonl" else "test")
        rest = " but those fitted on" if whole == "all rows" else ""
        fitted = "profile" if self._has_profile_split() else f"{whole}, those that layers are fitted on"
        named = fitted if part == "profile" else whole + rest
        return f"{self.model} ({self.identity['revision']}), {self.settings.benchmark} {named}, n = {n}, seed {self.seed}"

    def _part(self, part: Part) -> Sequence[interp.Sample]:
        name, options, limit = self.settings.benchmark, self.settings.benchmark_options(), self.settings.limit
        # Whoever judges few samples tries something out: layers and probes are then fitted on few too.
        judged = JUDGED if limit is None else limit
        fitted = FITTED if limit is None else min(FITTED, max(20, limit))
        if part == "train":
            trained = TRAINED if limit is None else min(TRAINED, max(200, 10 * limit))
            return load_benchmark(name, **{**options, "split": "train", "limit": trained})
        if self._has_profile_split():
            if part == "profile":
                return load_benchmark(name, **{**options, "split": "profile", "limit": fitted})
            if self.settings.split is None and name == "jsonl":  # all rows are asked for, and some of them are to fit on
                return self._unfitted(load_benchmark(name, **{**options, "limit": None}))[:judged]
            found = load_benchmark(name, **{**options, "limit": judged})
            return self._unfitted(found) if name == "jsonl" or self.settings.split == "profile" else found
        first, rest = parted(load_benchmark(name, **{**options, "limit": None}), fitted)
        return first if part == "profile" else rest[:judged]

    def _unfitted(self, samples: Sequence[interp.Sample]) -> Sequence[interp.Sample]:
        """Those of pictures that no layers are fitted on and, where all rows are judged, no probes trained on."""
        taken = {sample.image_id for sample in self.samples("profile")}
        if self.settings.split is None:
            with suppress(BenchmarkError):  # there are no such rows
                taken |= {sample.image_id for sample in self.samples("train")}
        rest = [k for k, sample in enumerate(samples) if sample.image_id not in taken]
        if not rest:
            raise BenchmarkError(
                f"All {len(samples)} samples to judge are of pictures layers are fitted on; name another --split or give more pictures."
            )
        return [samples[k] for k in rest]

    def _has_profile_split(self) -> bool:
        key = ("has profile",)
        if key not in self._kept:
            options = {**self.settings.benchmark_options(), "split": "profile", "limit": 1}
            try:
                self._kept[key] = len(load_benchmark(self.settings.benchmark, **options)) > 0
            except BenchmarkError:
                self._kept[key] = False
        return self._kept[key]

    def _identity(self) -> dict[str, Any]:
        """Everything that results follow from besides the artefact's own code."""
        s, vlm = self.settings, self.vlm()
        source = {name: str(value) for name in ("annotations", "path", "images") if (value := getattr(s, name)) is not None}
        files = {name: _digest(value) for name in ("annotations", "path") if (value := getattr(s, name)) is not None and value.is_file()}
        return {
            "model": self.model,
            "revision": vlm.revision,
            "dtype": str(vlm.dtype).removeprefix("torch."),
            "image_options": json.dumps(vlm.image_options, sort_keys=True),
            "prompt_order": s.prompt_order,
            "benchmark": s.benchmark,
            "split": s.split or "",
            "limit": s.limit or 0,
            "skip_bad": s.skip_bad,
            "max_new_tokens": s.max_new_tokens,
            "seed": s.seed,
            **source,
            **{f"{name} sha256": value for name, value in files.items()},
        }

    def _finished(self, path: Path) -> xr.Dataset | None:
        """A trace that is complete, without the model; its folder's name says that it is of these settings."""
        if self._vlms or not path.exists():  # with the model at hand its pictures are compared too
            return None
        try:
            return interp.open_trace(path)
        except StoreError:
            return None


def slug(model: str) -> str:
    """A model's name as that of a folder: ``demo/llava`` becomes ``demo--llava``."""
    kept = "".join(c if c.isalnum() or c in "._-" else "--" if c == "/" else "-" for c in model)
    return kept.strip(".-") or "model"


def parted(samples: Sequence[interp.Sample], n: int) -> tuple[list[interp.Sample], list[interp.Sample]]:
    """Samples of the first pictures, at most `n` and a quarter of all, to fit layers on; and those of all other pictures.

    Raises
    ------
    BenchmarkError
        There are too few pictures for both.
    """
    everything = list(samples)
    room = min(n, len(everything) // 4)
    of_picture: dict[str, list[interp.Sample]] = {}
    for sample in everything:
        of_picture.setdefault(sample.image_id, []).append(sample)
    first: list[interp.Sample] = []
    taken: set[str] = set()
    for picture, mine in of_picture.items():
        if len(first) + len(mine) > room:
            break
        first += mine
        taken.add(picture)
    rest = [sample for sample in everything if sample.image_id not in taken]
    if not first or not rest:
        raise BenchmarkError(
            f"The {len(everything)} samples of {len(of_picture)} pictures are too few to fit layers on some and judge others; give more."
        )
    return first, rest


def joined(parts: Sequence[xr.Dataset], methods: Sequence[str] | None = None) -> xr.Dataset:
    """Answers of several stores as one, the methods in the order wanted (by default as they come), with what is not applicable in any."""
    by_method = [part[[name for name, v in part.data_vars.items() if "method" in v.dims]] for part in parts]
    found: xr.Dataset = xr.concat(by_method, dim="method", coords="minimal", compat="override", join="exact", combine_attrs="override")
    shared = {name: v for part in parts for name, v in part.data_vars.items() if "method" not in v.dims}
    names = [str(name) for name in found["method"].values]
    wanted = names if methods is None else list(methods)
    absent = {name: why for part in parts for name, why in json.loads(part.attrs.get("not_applicable", "{}")).items() if name in wanted}
    known = {**found.attrs, "not_applicable": json.dumps(absent)} if absent else found.attrs
    found.attrs = {name: v for name, v in known.items() if absent or name != "not_applicable"}
    return found.assign(shared).isel(method=[names.index(name) for name in wanted])


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def provenance_of(ds: xr.Dataset) -> dict[str, str]:
    """The attributes of a trace as text, for a file of provenance."""
    return {str(name): value if isinstance(value, str) else json.dumps(value, default=_plain) for name, value in ds.attrs.items()}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
