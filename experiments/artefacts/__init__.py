"""The paper's figures and tables, each an artefact that ``interp reproduce NAME`` makes for any model.

An artefact is a module with an `Artefact`: its name, a title, the question it answers, and ``compute(context) -> Result``. To add one,
write the module and name it in `PAPER` below; nothing else knows of it. What it may ask of its `Context`:

- ``context.samples(part, n)``, ``context.trace(part, order, n)``: the judged samples (part ``judged``) or those that layers are fitted
  on (``profile``), and their traces with answers, one forward pass each, stored and resumed. ``order``: by default the run's.
- ``context.profile(order)``, ``context.probes(order)``: the visual-grounding layers, and what can be read of the evidence (or, in words,
  why that is not known).
- ``context.answers(methods, n, order, **options)``: answers side by side; a method asked for twice with the same options is answered once.
- `experiments.artefacts.asking`: the same for altered samples, and for methods of an artefact's own. `experiments.artefacts.comparing`:
  rows of means and of paired differences, and Holm's correction over a table.
- ``context.vlm(order)``, for what none of these gives; ``context.order``, ``context.seed``, ``context.settings``.

A `Result` holds a table, a figure of `interp.plots`, labelled data, a sentence with figures and intervals in whatever direction they came
out, and beside what of the paper it stands (`beside_in`), or why it does not. An artefact that cannot be made for a model raises an
`InterpError`, whose sentence the index shows. With ``together=True`` an artefact gets the list of all models' contexts.

Written below ``results/NAME/MODEL/``: table.csv, table.md, figure.html (and .png where a browser is found), data.zarr and provenance.json,
which holds a fingerprint of settings, model revision and the artefact's code: what is finished with the same one is left as it is.
``results/index.html`` shows everything that is there; shared stores lie below ``results/.cache``.
"""

from experiments.artefacts import (
    ablation_table,
    all_models,
    attention_shift,
    attribution_table,
    below_half,
    central,
    evidence_by_correctness,
    failure_gallery,
    layer_maps,
    main_table,
    multi_image,
    multi_turn,
    original_too,
    profile_table,
    reviewers,
    robustness,
    stages,
    strength,
)
from experiments.artefacts.making import Artefacts

PAPER = Artefacts(
    (
        central.ARTEFACT,
        attention_shift.ARTEFACT,
        failure_gallery.ARTEFACT,
        layer_maps.ARTEFACT,
        evidence_by_correctness.ARTEFACT,
        stages.ARTEFACT,
        robustness.ARTEFACT,
        strength.ARTEFACT,
        all_models.SHIFTS,
        all_models.MAPS,
        all_models.CURVES,
        main_table.ARTEFACT,
        attribution_table.ARTEFACT,
        ablation_table.ARTEFACT,
        profile_table.ARTEFACT,
        below_half.ARTEFACT,
        original_too.ARTEFACT,
        multi_turn.ARTEFACT,
        multi_image.ARTEFACT,
        reviewers.ARTEFACT,
    )
)
"""Every artefact, in the order it is listed, made and shown."""

__all__ = ["PAPER"]
