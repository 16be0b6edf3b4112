"""The list of faults found in the authors' code: what each is, and on what it is measured here, or why not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One fault. `measured` names the tables of the page (labels, maps, answers, trace); where it is empty, `why` says why."""

    number: int
    name: str
    what: str
    measured: str = ""
    why: str = ""


FAULTS = (
    Fault(1, "containment", "exact match finds a short or an empty reference inside nearly every answer", "labels, answers"),
    Fault(2, "squash", "Gemma 3's evidence labels assume a centre crop, but its processor squashes the picture", "labels"),
    Fault(3, "crop", "LLaVA-1.5's centre crop loses evidence, and a partial loss is not reported", "labels"),
    Fault(4, "resolution", "at 512 x 512 pixels evidence can be too small to be read, which nothing reports", "labels"),
    Fault(5, "border, adjacent", "spikes on the border, in small grids, and in touching pairs are never replaced", "maps, answers"),
    Fault(6, "reflection", "smoothing mirrors the map at its borders, which carries its peak into a corner", "maps, answers"),
    Fault(7, "constant", "a constant map becomes zeros, so that the whole picture is dimmed", "maps, answers"),
    Fault(8, "truncation", "grey levels are cut off, not rounded", "maps, answers"),
    Fault(9, "clipping", "boxes are floored at both ends and clamped: their last row and column are lost", "labels"),
    Fault(10, "memory", "all attention is kept, of which one row per head is used", why="it costs memory and changes no number"),
    Fault(11, "rendering", "the highlighted picture is the attributing model's rendering, the plain one the original", "answers"),
    Fault(
        12,
        "two resamplers",
        "Pillow resizes what is shown, the processor what is attended to",
        why="the processors here resize by Pillow too, and any other backend needs torchvision",
    ),
    Fault(13, "question span", "where the question is not found, all text after the picture counts as the question", "trace"),
    Fault(14, "profiling", "layers are chosen on the samples they are judged on", "trace, maps, answers"),
    Fault(15, "statistics", "one script prints the mean of ratios, another the ratio of means", "trace"),
    Fault(16, "several pictures", "image tokens run from the first to the last one", why="a question here has one picture"),
    Fault(17, "data", "no reader of the published benchmark files", why="it changes no number; `visual-cot` reads all three forms"),
    Fault(18, "dependencies", "attributes of other versions of transformers", why="their code would have to run"),
    Fault(19, "absent", "methods, corruptions and causal tests that the paper speaks of are missing", why="nothing to compare with"),
    Fault(20, "README", "it says that no weights are needed", why="it changes no number"),
    Fault(21, "set F1", "token F1 counts a repeated word once, and by lemmas", "labels, answers"),
)
