"""The command line: ``interp demo | trace | organisms train``. Bad input gets one sentence and exit status 2."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

import interp
from interp.errors import InterpError

app = App(
    name="interp",
    help="Where vision-language models look, what they use, and when they see but do not believe.",
    version=interp.__version__,
)
organisms = App(name="organisms", help="The small trained models that ship with the package.")
app.command(organisms)

_out = Console()
_err = Console(stderr=True)

Order = Literal["image-first", "question-first"]


@app.command
def demo(*, model: str = "demo/llava", limit: int = 40, out: Path = Path("results/demo")) -> None:
    """Answer test questions with an organism, trace its attention, and draw where it looks.

    Example: interp demo --limit 40 --out results/demo

    Parameters
    ----------
    model
        A model that ships with the package (demo/NAME), a local directory, or a Hugging Face id.
    limit
        How many test samples of the digits benchmark.
    out
        Folder for the figures.
    """
    from interp.demo import run_demo

    found = run_demo(model, limit, out)
    attrs = found.trace.attrs
    answers = Table(title=f"{attrs['model']} on {attrs['benchmark']} {attrs['split']}: strict exact match", title_justify="left")
    for column in ("samples", "accuracy", "95 % interval", "n"):
        answers.add_column(column, justify="left" if column == "samples" else "right")
    for label, mean, lower, upper, n in found.accuracy:
        answers.add_row(label, f"{mean:.2f}", f"{lower:.2f} to {upper:.2f}", str(n))
    _out.print(answers)
    mass = Table(title=f"Attention of the last prompt token on image tokens, n = {found.trace.sizes['sample']}", title_justify="left")
    mass.add_column("layer", justify="right")
    mass.add_column("mass", justify="right")
    mass.add_column("")
    for layer, value in zip(found.mass["layer"].values, found.mass.values, strict=True):
        mass.add_row(str(layer), f"{value:.2f}", "█" * round(40 * float(value)))
    _out.print(mass)
    for note in found.notes:
        _out.print(note)
    for path in found.files:
        _out.print(f"wrote {path}", highlight=False, soft_wrap=True)


@app.command
def trace(
    *,
    model: str,
    benchmark: str,
    out: Path,
    split: str = "test",
    limit: int | None = None,
    prompt: str = "base",
    prompt_order: Order = "image-first",
    batch_size: int = 8,
    queries: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    annotations: Path | None = None,
    images: Path | None = None,
    skip_bad: bool = False,
    device: str | None = None,
    dtype: str = "auto",
    revision: str | None = None,
) -> None:
    """Trace a model's attention over a benchmark into one labelled Zarr data set.

    Example: interp trace --model demo/llava --benchmark digits --limit 100 --out run.zarr

    Parameters
    ----------
    model
        A model that ships with the package (demo/NAME), a local directory, or a Hugging Face id.
    benchmark
        digits or visual-cot.
    out
        The Zarr folder to write; it must not exist yet.
    split
        Which part of the benchmark.
    limit
        The first so many samples only.
    prompt
        A wording (base, vea, ...), or a text that holds {question}.
    prompt_order
        Picture before the text, or after it.
    batch_size
        Samples per forward pass.
    queries
        Also keep the rows of further tokens: question, answer, or prompt positions such as -1,-2.
    annotations, images, skip_bad
        Where visual-cot's annotation file and picture folder are, and whether to leave out (and count) its unusable rows.
    device, dtype, revision
        As in interp.load_vlm.
    """
    options: dict[str, Any] = {k: v for k, v in {"annotations": annotations, "images": images}.items() if v is not None}
    options |= {"skip_bad": True} if skip_bad else {}
    if out.exists():  # before the work, not after it
        raise InterpError(f"Store {str(out)!r} already exists; choose another path, or delete it first.")
    bench = interp.load_benchmark(benchmark, split=split, limit=limit, **options)
    counts = ", ".join(f"{name.removeprefix('n_').replace('_', ' ')} {n}" for name, n in getattr(bench, "report", {}).items() if n)
    if counts:
        _out.print(f"{benchmark}: {counts}", highlight=False, soft_wrap=True)
    vlm = interp.load_vlm(model, device=device, dtype=dtype, revision=revision, prompt_order=prompt_order)
    ds = interp.trace(vlm, bench, prompt=prompt, batch_size=batch_size, queries=_queries(queries), store=out)
    _out.print(f"{ds.sizes['sample']} samples, exact match {float(ds['exact_match'].mean()):.3f}", highlight=False)
    _out.print(f"wrote {out}", highlight=False, soft_wrap=True)


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
    _out.print(
        f"wrote {target}" if finished else f"stopped early; the same command takes {target} up again", highlight=False, soft_wrap=True
    )


def main() -> None:
    """Entry point of ``interp``."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=_err, show_path=False)])
    try:
        app()
    except InterpError as error:
        _err.print(f"[bold red]error:[/] {_escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        _err.print("interrupted")
        sys.exit(130)


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
