"""Labelled arrays in, labelled arrays out. Nothing here needs torch: a stored trace is analysed on a laptop."""

from interp.analysis.auroc import auroc, evidence_labels
from interp.analysis.bootstrap import cluster_bootstrap, mean_interval
from interp.analysis.correctness import by_correctness
from interp.analysis.depth import probe_layers
from interp.analysis.disconnect import disconnect
from interp.analysis.failures import FAILURE_KINDS, FAILURES, failures
from interp.analysis.fates import fates
from interp.analysis.grounding import auprc, evidence_ratio, grounding, ndcg, pointing
from interp.analysis.heads import head_measures, head_taxonomy, layer_matched, random_heads
from interp.analysis.knockout_effect import knockout_effect
from interp.analysis.mass import segment_mass
from interp.analysis.paired import compare, holm, mcnemar
from interp.analysis.probe import Probe, fit_probe, readable
from interp.analysis.profile import Profile, profile_layers, profiled_map
from interp.analysis.quality import by_grounding_quality
from interp.analysis.rapt import rapt
from interp.analysis.seen import seen
from interp.analysis.visibility import visibility

__all__ = [
    "FAILURES",
    "FAILURE_KINDS",
    "Probe",
    "Profile",
    "auprc",
    "auroc",
    "by_correctness",
    "by_grounding_quality",
    "cluster_bootstrap",
    "compare",
    "disconnect",
    "evidence_labels",
    "evidence_ratio",
    "failures",
    "fates",
    "fit_probe",
    "grounding",
    "head_measures",
    "head_taxonomy",
    "holm",
    "knockout_effect",
    "layer_matched",
    "mcnemar",
    "mean_interval",
    "ndcg",
    "pointing",
    "probe_layers",
    "profile_layers",
    "profiled_map",
    "random_heads",
    "rapt",
    "readable",
    "seen",
    "segment_mass",
    "visibility",
]
