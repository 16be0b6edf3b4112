"""What a checkpoint's examination says: one outcome per check, with numbers and reasons, as a table, a file or a row of a matrix."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

Outcome = Literal["pass", "fail", "skip"]

_TEXT = np.dtypes.StringDType()
_MARKS: dict[Outcome, str] = {"pass": "pass", "fail": "**fail**", "skip": "–"}


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a certificate.

    Parameters
    ----------
    name
        Which check.
    outcome
        ``pass``, ``fail``, or ``skip`` where it could not be judged.
    found
        What was found, in words.
    numbers
        The same as numbers, by name.
    reason
        Why it failed, and the remedy; or why it was skipped. Empty where it passed.
    """

    name: str
    outcome: Outcome
    found: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Judged, and right."""
        return self.outcome == "pass"


@dataclass(frozen=True, slots=True)
class Certificate:
    """The examination of one checkpoint.

    Parameters
    ----------
    model, family
        Its name and its `model_type`.
    provenance
        Revision, number type, prompt order, picture processing, package versions.
    checks
        Every check, in the order they were made.
    """

    model: str
    family: str
    provenance: Mapping[str, str]
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """No check failed, and at least one was judged."""
        return not self.failed and any(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(check.name for check in self.checks if check.outcome == "fail")

    @property
    def verdict(self) -> str:
        """One sentence."""
        counts = {outcome: sum(check.outcome == outcome for check in self.checks) for outcome in get_args(Outcome)}
        told = f"{counts['pass']} of {len(self.checks)} checks passed"
        skipped = f", {counts['skip']} could not be judged" if counts["skip"] else ""
        return f"{told}{skipped}{', failed: ' + ', '.join(self.failed) if self.failed else ''}."

    def __getitem__(self, name: str) -> Check:
        found = {check.name: check for check in self.checks}
        return found[name]

    def to_dataset(self) -> xr.Dataset:
        """Variables `outcome`, `found`, `reason` (check); the provenance as attributes."""
        columns = {"outcome": "pass, fail or skip", "found": "what was found", "reason": "why not, and the remedy"}
        return xr.Dataset(
            {
                name: ("check", np.array([getattr(check, name) for check in self.checks], dtype=_TEXT), {"long_name": said})
                for name, said in columns.items()
            },
            coords={"check": np.array([check.name for check in self.checks], dtype=_TEXT)},
            attrs={**self.provenance, "model": self.model, "family": self.family},
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it; a number that is not finite is null."""
        return {
            "model": self.model,
            "family": self.family,
            "passed": self.passed,
            "provenance": dict(self.provenance),
            "checks": [
                {
                    "name": check.name,
                    "outcome": check.outcome,
                    "found": check.found,
                    "numbers": {name: value if np.isfinite(value) else None for name, value in check.numbers.items()},
                    "reason": check.reason,
                }
                for check in self.checks
            ],
        }

    def save(self, path: str | Path) -> None:
        """Write it as a JSON file."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def matrix(certificates: Sequence[Certificate]) -> str:
    """Certificates side by side as a Markdown table: a row per model, a column per check.

    A check that one model lacks, or that could not be judged, is a dash.
    """
    names = list(dict.fromkeys(check.name for certificate in certificates for check in certificate.checks))
    lines = ["| model | family | number type | " + " | ".join(names) + " |", "|---|---|---|" + ":-:|" * len(names)]
    for certificate in certificates:
        marks = {check.name: _MARKS[check.outcome] for check in certificate.checks}
        cells = [certificate.model, certificate.family, certificate.provenance.get("dtype", "")]
        lines.append("| " + " | ".join([*cells, *(marks.get(name, _MARKS["skip"]) for name in names)]) + " |")
    return "\n".join(lines)
