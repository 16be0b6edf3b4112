"""The command line, ``interp COMMAND``. Bad input gets one sentence and exit status 2; 1 says that `interp check` found something wrong."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Toml
from pydantic import ValidationError
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import interp
from interp import tables
from interp.errors import InterpError
from interp.findings import analyse, compare_methods, draw, write_tables
from interp.reproduce import ReproduceSettings
from interp.settings import EvaluateSettings, KnockoutSettings, ModelSettings, PatchSettings, SweepSettings, TraceSettings

app = App(
    name="interp",
    help="Where vision-language models look, what they use, and when they see but do not believe.",
    version=interp.__version__,
)
organisms = App(name="organisms", help="The small trained models that ship with the package.")
app.command(organisms)

_out = Console()
_err = Console(stderr=True)

Flat = Parameter(name="*")
_AS_IT_IS = ModelSettings()
_AS_THE_PAPER = ReproduceSettings()
Score = Literal["exact_match", "contains"]


@app.command
def demo(
    *,
    model: str | None = None,
    everything: Annotated[bool, Parameter("--all", negative="")] = False,
    limit: int = 500,
    out: Path = Path("results/demo"),
) -> None:
    """The whole path on a model that ships with the package: profile, trace, disconnect, VEA beside its controls, figures.

    Example: interp demo --limit 100 --out results/small

    Parameters
    ----------
    model
        A model that ships with the package (demo/NAME; default demo/llava), a local directory, or a Hugging Face id.
    everything
        Every model that ships with the package, each into its own folder, and one table and figure with a row for each.
    limit
        How many test samples of the digits benchmark.
    out
        Folder for stores, tables and figures; the same command takes an interrupted run up again.
    """
    if everything:
        if model is not None:
            raise InterpError(
                f"--all runs every model that ships with the package, so --model {model} cannot be given beside it; leave one out."
            )
        _side_by_side(limit, _folder(out))
        return
    found = interp.demo.run_demo(model or "demo/llava", limit, _folder(out))
    for table in found.tables:
        _out.print(table)
    _written(found.files, found.notes)


@app.command
def trace(*, settings: Annotated[TraceSettings, Flat]) -> None:
    """Trace a model's attention over a benchmark into one labelled Zarr data set; the same command takes an interrupted run up again.

    Example: interp trace --model demo/llava --benchmark digits --limit 100 --out run.zarr
    """
    vlm, bench = _asked(settings)
    ds = interp.trace(
        vlm,
        bench,
        prompt=settings.prompt,
        batch_size=settings.batch_size,
        queries=_queries(settings.queries),
        residual=settings.residual,
        max_new_tokens=settings.max_new_tokens,
        store=settings.out,
        shard=settings.shard,
        settings=settings.model_dump(mode="json"),
        resume_command=settings.command_line("trace", without=("shard",)),  # one shard again would not finish it
    )
    _out.print(f"{ds.sizes['sample']} samples, exact match {float(ds['exact_match'].mean()):.3f}", highlight=False)
    _written([settings.out])


@app.command
def profile(store: Path, *, out: Path | None = None, fraction: float = 0.1, rule: Literal["any", "half", "all"] = "any") -> None:
    """Find the visual-grounding layers and heads of a traced model, by AUROC of their attention on the evidence.

    Example: interp profile profile.zarr --out profile.json

    Parameters
    ----------
    store
        A trace of a split that is not judged later.
    out
        The file to write (default: the store's name with .json).
    fraction
        Share of the layers to keep.
    rule
        When a visual token counts as evidence: any, half or all of its region.
    """
    ds = interp.open_trace(store)
    found = interp.profile_layers(ds, fraction=fraction, rule=rule)
    _out.print(tables.profile_table(found))
    target = out if out is not None else store.with_suffix(".json")
    target.parent.mkdir(parents=True, exist_ok=True)
    found.save(target)
    _written([target])


@app.command
def analyze(
    store: Path,
    *,
    profile: Path | None = None,
    out: Path | None = None,
    correct: Score = "exact_match",
    readable: bool = False,
    allow_overlap: bool = False,
) -> None:
    """Where a traced model looked, when it was right and when it was wrong: tables and figures, without the model.

    Example: interp analyze test.zarr --profile profile.json --out results/test

    Parameters
    ----------
    store
        A finished trace.
    profile
        The visual-grounding layers, from interp profile on another split; with it the disconnect table is made.
    out
        Folder for tables (CSV) and figures (default: the store's name with -analysis).
    correct
        What counts as a correct answer.
    readable
        Also fit the probe that tells misreading from disbelief; this loads the traced model and the benchmark's train split again.
    allow_overlap
        Accept a profile fitted on some of the same pictures; recorded.
    """
    folder = _folder(out if out is not None else store.with_name(f"{store.stem}-analysis"))
    ds = interp.open_trace(store)
    fitted = interp.analysis.Profile.load(profile) if profile is not None else None
    if readable and fitted is None:
        raise InterpError("--readable belongs to the disconnect table, which needs --profile; give one from interp profile.")
    probed = _probe(ds.attrs) if readable else None
    found = analyse(ds, fitted, probed, correct=correct, allow_overlap=allow_overlap)
    for table in tables.analysis_tables(found):
        _out.print(table)
    files = write_tables(found, folder)
    figures, notes = interp.plots.save(draw(found), folder)
    _written([*files, *figures], [*found.notes, *notes])


@app.command
def evaluate(*, settings: Annotated[EvaluateSettings, Flat]) -> None:
    """Answer a benchmark in several ways side by side, with paired statistics; the same command takes an interrupted run up again.

    Example: interp evaluate --model demo/llava --benchmark digits --methods base,inst,vea --profile profile.json --out answers.zarr
    """
    fitted = interp.analysis.Profile.load(settings.profile) if settings.profile is not None else None
    attribution = interp.open_trace(settings.attribution) if settings.attribution is not None else None
    vlm, bench = _asked(settings)
    answers = interp.evaluate(
        vlm,
        bench,
        methods=settings.methods,
        profile=fitted,
        attribution=attribution,
        alpha=settings.alpha,
        sigma=settings.sigma,
        lam=settings.lam,
        variant=settings.variant,
        batch_size=settings.batch_size,
        max_new_tokens=settings.max_new_tokens,
        seed=settings.seed,
        allow_overlap=settings.allow_overlap,
        store=settings.out,
        settings=settings.model_dump(mode="json"),
        resume_command=settings.command_line("evaluate"),
    )
    for table in tables.method_tables(compare_methods(answers)):
        _out.print(table)
    _written([settings.out])


@app.command
def sweep(*, settings: Annotated[SweepSettings, Flat]) -> None:
    """Replace every single head in turn and see what the answer loses: a table and a map of all heads, for about one extra forward pass.

    Example: interp sweep --model demo/llava --benchmark digits --limit 100 --out results/sweep
    """
    from interp.causal import run_sweep

    _folder(settings.out)
    vlm, bench = _asked(settings)
    options = {**settings.benchmark_options(), "split": settings.reference_split, "limit": settings.reference_limit}
    others = interp.load_benchmark(settings.benchmark, **options) if settings.mode != "zero" else []
    _studied(run_sweep(vlm, bench, settings, others))


@app.command
def knockout(*, settings: Annotated[KnockoutSettings, Flat]) -> None:
    """Hide the evidence from the answer, layer by layer, beside as many random tokens of the picture.

    Example: interp knockout --model demo/llava --benchmark digits --limit 100 --window 3 --out results/knockout
    """
    from interp.causal import run_knockout

    _folder(settings.out)
    _studied(run_knockout(*_asked(settings), settings))


@app.command
def patch(*, settings: Annotated[PatchSettings, Flat]) -> None:
    """Put activations of one run into another that should answer differently, by layer and token group.

    Example: interp patch --model demo/llava --benchmark digits --limit 40 --pairs digit --out results/patch
    """
    from interp.causal import run_patch

    _folder(settings.out)
    _studied(run_patch(*_asked(settings), settings))


@app.command
def reproduce(
    *names: str,
    settings: Annotated[ReproduceSettings, Flat] = _AS_THE_PAPER,
    everything: Annotated[bool, Parameter("--all", negative="")] = False,
    listing: Annotated[bool, Parameter("--list", negative="")] = False,
    again: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Make figures and tables of the paper for one or more models, and a page of all that were made: OUT/index.html.

    What is finished with the same settings is left as it is, and an interrupted run is taken up again.

    Example: interp reproduce fig1 fig4 --model demo/llava --limit 100

    Parameters
    ----------
    names
        Which; see --list.
    everything
        All of them.
    listing
        Say which there are, and make none.
    again
        Make finished ones anew.
    """
    if listing:
        for artefact in interp.reproduce.listed():
            _out.print(f"{artefact.name:18} {artefact.title}", highlight=False, markup=False, soft_wrap=True)
        return
    if bool(names) == everything:
        raise InterpError("Say which figures or tables to make, by name (interp reproduce --list) or with --all, not both.")

    def report(what: str) -> None:
        _err.print(what, highlight=False, markup=False, soft_wrap=True)

    done = interp.reproduce.reproduce(names, settings, again=again, report=report)
    for sentence in done.sentences:
        _out.print(sentence, highlight=False, markup=False, soft_wrap=True)
    _written(done.files)
    if done.failed:
        raise InterpError(" ".join(["Some could not be made.", *done.failed]))


@app.command
def check(model: str, *, settings: Annotated[ModelSettings, Flat] = _AS_IT_IS, out: Path | None = None) -> None:
    """Certify a checkpoint before work is spent on it; exit status 1 if a check fails.

    It draws its own pictures: geometry, attention rows, edits, padding, prompts and answers. The model is left as it is.

    Example: interp check demo/llava --dtype bfloat16 --out certificate.json

    Parameters
    ----------
    model
        A model that ships with the package (demo/NAME), a local directory, or a Hugging Face id.
    out
        Also write the certificate to this JSON file.
    """
    certificate = interp.check(interp.load_vlm(model, **settings.model_options()))
    _out.print(tables.certificate_table(certificate.to_dataset()))
    _out.print(certificate.verdict, highlight=False, soft_wrap=True)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        certificate.save(out)
        _written([out])
    if not certificate.passed:
        sys.exit(1)


@organisms.command
def train(name: str, *, out: Path | None = None, seed: int = 0, threads: int = 1, stop_after: int | None = None) -> None:
    """Train an organism from a seed, or take up an interrupted run; ends with its model card.

    Example: interp organisms train llava --out my-llava

    Parameters
    ----------
    name
        Which organism.
    out
        Folder for the model, its card and its log (default organisms/NAME).
    seed
        Everything random follows from it.
    threads
        Threads of torch; a run repeats exactly on one.
    stop_after
        Leave after so many steps, ready to be taken up by the same command.
    """
    import torch

    from interp.organisms import train_organism

    torch.set_num_threads(threads)
    target = out if out is not None else Path("organisms") / name
    with _training_bar() as report:
        finished = train_organism(name, target, seed=seed, stop_after=stop_after, report=report)
    if finished:
        _written([target])
    else:
        _out.print(f"stopped early; the same command takes {target} up again", highlight=False, soft_wrap=True)


@app.meta.default
def _with_file(*tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)], config: Path | None = None) -> None:
    """Flags may also stand in a TOML file, a table per command: ``[trace]``, then ``model = "demo/llava"``.

    Parameters
    ----------
    config
        The TOML file; flags on the command line win.
    """
    if config is not None:
        if not config.is_file():
            raise InterpError(f"Settings file {str(config)!r} does not exist; give a TOML file with a table per command.")
        app.config = (Toml(config),)
    app(tokens, exit_on_error=False, print_error=False)


def main() -> None:
    """Entry point of ``interp``."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=_err, show_path=False)])
    try:
        app.meta(exit_on_error=False, print_error=False)
    except (InterpError, CycloptsError, ValidationError, OSError) as error:
        _err.print(f"[bold red]error:[/] {_escape(_sentence(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        _err.print("interrupted")
        sys.exit(130)


def _sentence(error: Exception) -> str:
    """A settings model's complaints in one line, as flags; a file's trouble with its name; anything else as it is."""
    if isinstance(error, OSError):
        return f"{error.strerror or error} ({error.filename}); check the path, its permissions and the room on the disk."
    cause = error.__cause__ if isinstance(error, CycloptsError) and isinstance(error.__cause__, ValidationError) else error
    if not isinstance(cause, ValidationError):
        return str(error)
    return "; ".join(f"--{str(e['loc'][0]).replace('_', '-')} {e['input']!r}: {e['msg'].lower()}" for e in cause.errors()) + "."


def _side_by_side(limit: int, out: Path) -> None:
    """All models that ship, one after the other."""

    def report(what: str) -> None:
        _err.print(what, highlight=False, markup=False, soft_wrap=True)

    again = shlex.join(["interp", "demo", "--all", "--limit", str(limit), "--out", str(out)])
    done = interp.demo.run_all(None, limit, out, resume_command=again, report=report)
    for sentence in done.sentences:
        _out.print(sentence, highlight=False, markup=False, soft_wrap=True)
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in done.seconds.items())
    _out.print(f"time: {sum(done.seconds.values()) / 60:.1f} min ({spent})", highlight=False, markup=False, soft_wrap=True)
    _written(done.files, done.notes)
    done.refuse_failed()


def _studied(study: Any) -> None:
    _out.print(study.sentence, highlight=False, soft_wrap=True)
    _written(study.files, study.notes)


def _asked(settings: TraceSettings | EvaluateSettings | SweepSettings | KnockoutSettings | PatchSettings) -> tuple[Any, Any]:
    bench = interp.load_benchmark(settings.benchmark, **settings.benchmark_options())
    counts = ", ".join(f"{name.removeprefix('n_').replace('_', ' ')} {n}" for name, n in getattr(bench, "report", {}).items() if n)
    if counts:
        _out.print(f"{settings.benchmark}: {counts}", highlight=False, soft_wrap=True)
    return interp.load_vlm(settings.model, **settings.model_options()), bench


def _probe(attrs: Mapping[str, Any]) -> Any:
    """What a probe reads on the traced samples; the store's own settings say which model and benchmark."""
    from interp.capture.probing import probed

    if "settings" not in attrs:
        raise InterpError("This store was not written by `interp trace`, so it does not say how to load its model; use interp.analysis.")
    settings = TraceSettings(**json.loads(attrs["settings"]))
    vlm, bench = _asked(settings)
    training = interp.load_benchmark(settings.benchmark, **{**settings.benchmark_options(), "split": "train", "limit": 1500})
    return probed(vlm, training, bench, batch_size=settings.batch_size)


def _folder(out: Path) -> Path:
    """The folder to write to, refused before the work if it is none."""
    if out.exists() and not out.is_dir():
        raise InterpError(f"Output {str(out)!r} is a file; give a folder with --out.")
    return out


def _written(files: list[Path], notes: list[str] | None = None) -> None:
    for note in notes or []:
        _out.print(note, highlight=False, soft_wrap=True)
    for path in files:
        _out.print(f"wrote {path}", highlight=False, soft_wrap=True)


def _queries(text: str | None) -> Any:
    if text is None or text in ("question", "answer"):
        return text
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InterpError(f"--queries {text!r} is not understood; use question, answer, or positions such as -1,-2.") from None


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


@contextmanager
def _training_bar() -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_err) as bar:
        task = bar.add_task("starting", total=None)

        def report(record: dict[str, Any], total: int) -> None:
            bar.update(
                task,
                total=total,
                completed=record["done"],
                description=f"{record['stage']} {record['step']}: loss {record['loss']:.3f}, accuracy {record['accuracy']:.2f}",
            )

        yield report
