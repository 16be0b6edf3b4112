"""The numbers of the paper as data, each with its source: "Seeing but Not Believing", arXiv 2510.17771, ICLR 2026.

The curves of its figures are not public as numbers; what is missing here is unknown. Sources: ``AX`` the arXiv record, ``CP`` a copy of its
abstract page, ``R`` the authors' code (github.com/ZhiningLiu1998/VEA), ``N-en`` and ``N-zh`` two published long notes on the paper,
``REV`` its OpenReview reviews (JAI7afWA9e), ``L`` a literature note that quotes Table 4. All of it is image-first. Percentages are as
printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

TITLE = "Seeing but Not Believing, arXiv 2510.17771"
ORDER = "image-first"


@dataclass(frozen=True)
class Published:
    """One statement of the paper: what was measured, the value in words, of which model and data, where it stands, and our sources."""

    what: str
    value: str
    of: str
    where: str
    source: str


IMAGE_EARLY = Published("RAPT of the image, early layers", "about 0.2", "LLaVA-1.5-7B", "Fig. 1", "REV")
IMAGE_LATE = Published("RAPT of the image, late layers", "about 0.6", "LLaVA-1.5-7B", "Fig. 1", "REV")
TEXT_EARLY = Published("RAPT of the text, early layers", "about 20", "LLaVA-1.5-7B", "Fig. 1", "REV")
MAPS = Published("attention over depth", "shallow weak and scattered, deep sparse on the evidence", "not named", "Fig. 3", "N-en, R, REV")
WRONG_STILL_SEES = Published(
    "attention on the evidence in wrong answers",
    "above that beside the evidence, weaker than in right answers",
    "4 families",
    "Fig. 4",
    "N-en, R",
)
BELOW_HALF_RANGE = (0.0142, 0.0734)
BELOW_HALF = Published(
    "share of samples with AUROC < 0.5", "1.42 % to 7.34 % by model; many blamed on incomplete boxes", "by model", "appendix", "N-zh, N-en"
)
ROBUSTNESS = (
    Published(
        "VEA less base, points of EM, 60 % Gaussian noise", "+16.4 (> 110 % relative)", "LLaVA-NeXT-7B, TextVQA", "Fig. 6", "N-en, N-zh"
    ),
    Published(
        "VEA less base, points of EM, 30 % random patch mask", "+25.8 (> 220 % relative)", "LLaVA-NeXT-7B, TextVQA", "Fig. 6", "N-en, N-zh"
    ),
)
SWEEP = Published("alpha and sigma", "middle values best; no numbers known", "not known", "Fig. 7", "N-en, N-zh")
MULTI_TURN = Published("token F1, base to VEA, VisDial", "27.5 to 47.8", "Qwen2.5-VL-7B", "appendix", "N-zh, N-en")
MULTI_IMAGE = Published("score, base to VEA, BLINK", "61.4 to 68.9", "Qwen2.5-VL-7B", "appendix", "N-zh, N-en")
VEA_STAR = Published("original and highlighted picture", "usually stronger than VEA; no numbers known", "-", "appendix", "N-zh, N-en")

ANSWERING = ("LN-7B", "LN-13B", "Q-7B", "Q-32B", "G-4B", "G-27B", "I-8B", "I-14B")
"""Columns of the main table: LLaVA-NeXT, Qwen2.5-VL, Gemma 3 and InternVL 3.5 by size."""

MAIN_EM: dict[str, tuple[float, ...]] = {
    "base": (38.5, 49.4, 73.4, 69.3, 56.6, 69.3, 79.3, 79.3),
    "inst": (38.8, 50.2, 73.9, 69.0, 56.0, 70.2, 79.2, 78.8),
    "cgr": (45.4, 52.7, 76.1, 73.0, 60.4, 72.3, 82.4, 81.7),
    "var": (42.7, 51.5, 76.4, 70.4, 58.0, 73.4, 80.2, 80.4),
    "agla": (46.4, 53.4, 77.9, 73.8, 60.4, 74.2, 82.3, 82.3),
    "vea": (49.6, 54.1, 78.4, 75.8, 61.2, 75.3, 83.2, 82.9),
}
"""Main table: EM (containment), mean of InfoVQA, DocVQA, SROIE and TextVQA, % [N-en], over `ANSWERING`."""

MAIN_EM_RANK = {"base": 5.38, "inst": 5.47, "cgr": 3.09, "var": 3.44, "agla": 2.50, "vea": 1.12}
"""Average rank by EM [N-en, N-zh]."""

MAIN_F1_RANK = {"base": 5.53, "inst": 5.28, "cgr": 3.44, "var": 3.22, "agla": 2.31, "vea": 1.22}
"""Average rank by token F1 [N-zh]."""

MEAN_GAIN = {"em": 5.67, "f1": 6.83}
"""VEA less base, mean over models and data sets, points [N-en, N-zh]."""

ATTRIBUTING = ("LLaVA-7B", "LLaVA-13B", "Q-7B", "Q-32B", "G-4B", "G-27B")
"""Columns of the attribution table: LLaVA-1.5, Qwen2.5-VL and Gemma 3 by size."""

ATTRIBUTION: dict[str, tuple[tuple[float, float], ...]] = {
    "layers 0-100 %": ((75.9, 47.2), (76.3, 47.2), (68.5, 41.7), (57.0, 33.0), (59.5, 35.5), (61.8, 36.4)),
    "layers 0-50 %": ((68.2, 43.2), (73.1, 46.4), (59.4, 34.2), (51.3, 31.9), (56.5, 34.3), (55.4, 34.9)),
    "layers 50-100 %": ((78.0, 54.5), (76.9, 50.5), (79.5, 58.1), (67.6, 43.3), (65.9, 43.7), (68.1, 43.6)),
    "var": ((70.8, 45.1), (72.1, 44.0), (75.2, 54.1), (65.7, 39.8), (51.2, 33.3), (58.2, 36.8)),
    "agla": ((80.2, 57.2), (81.1, 56.6), (77.7, 55.4), (75.1, 51.3), (68.3, 44.5), (73.8, 49.0)),
    "vea": ((83.6, 63.5), (84.4, 63.5), (85.2, 68.6), (79.1, 58.4), (80.0, 59.9), (81.2, 60.1)),
}
"""Attribution table: AUROC and NDCG@all, % [N-en, three columns N-zh], over `ATTRIBUTING`."""

ABLATION: dict[str, tuple[float, float]] = {
    "vea": (73.4, 68.1),
    "without denoising": (70.9, 64.9),
    "without profiling": (71.0, 65.3),
    "without smoothing": (68.3, 62.8),
}
"""Ablation table: EM and F1, %; over which models and data is not stated [N-en, N-zh]."""


class LayerProfile(NamedTuple):
    """A row of Table 4: mean AUROC (%) of all layers and of the profiled ones, on 100 TextVQA samples."""

    model: str
    n_layers: int
    auroc_all: float
    auroc_selected: float
    layers: tuple[int, ...]


LAYER_PROFILES = (
    LayerProfile("LLaVA-1.5-7B", 32, 83.98, 92.13, (14, 15, 17, 19)),
    LayerProfile("LLaVA-1.5-13B", 40, 85.96, 92.16, (13, 14, 15, 16)),
    LayerProfile("Qwen2.5-VL-7B", 28, 80.07, 89.09, (18, 22, 24)),
    LayerProfile("Qwen2.5-VL-32B", 64, 73.08, 88.18, (49, 50, 51, 52, 53, 55, 56)),
    LayerProfile("Gemma3-4B", 34, 65.40, 80.32, (17, 19, 21, 23)),
    LayerProfile("Gemma3-27B", 62, 68.97, 84.70, (35, 37, 40, 41, 47, 53, 58)),
)
"""Table 4 [L, N-en]; whether its layers count from 0 is unstated, the code's do [R]."""
