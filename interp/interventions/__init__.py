"""What changes a run: a highlighted picture and the maps it is compared with; heads ablated, attention knocked out, activations patched."""

from interp.interventions.ablation import ablate_heads
from interp.interventions.controls import peak_role, shift, uniform
from interp.interventions.evidence import evidence_map
from interp.interventions.highlight import gain, highlight
from interp.interventions.knockout import knockout
from interp.interventions.pairs import Pair, arm_pairs, digit_pairs, highlight_pairs
from interp.interventions.patching import patch
from interp.interventions.references import HeadReference, head_reference
from interp.interventions.sweep import head_sweep

__all__ = [
    "HeadReference",
    "Pair",
    "ablate_heads",
    "arm_pairs",
    "digit_pairs",
    "evidence_map",
    "gain",
    "head_reference",
    "head_sweep",
    "highlight",
    "highlight_pairs",
    "knockout",
    "patch",
    "peak_role",
    "shift",
    "uniform",
]
