"""What changes a run: a highlighted picture, and the maps it is compared with."""

from interp.interventions.controls import peak_role, shift, uniform
from interp.interventions.evidence import evidence_map
from interp.interventions.highlight import gain, highlight

__all__ = ["evidence_map", "gain", "highlight", "peak_role", "shift", "uniform"]
