"""What README.md shows is made of what there is: here, the matrix of tested models."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import interp
from experiments import readme
from interp.certificate import Certificate, Check
from interp.loading import shipped
from interp.testing import TINY


def test_every_model_that_ships_and_every_family_is_in_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    def checked(vlm: Any, **_: object) -> Certificate:
        known = {"dtype": str(vlm.dtype), "image_backend": "pil"} | {
            f"version_{name}": "1" for name in ("interp", "torch", "transformers", "nnsight")
        }
        return Certificate(vlm.name, "", known, (Check("prompt", "pass"),))

    def model(name: str, dtype: object = "float32") -> SimpleNamespace:
        return SimpleNamespace(name=name, dtype=dtype)

    monkeypatch.setattr(interp, "check", checked, raising=False)
    monkeypatch.setattr(interp, "load_vlm", model, raising=False)
    monkeypatch.setattr("experiments.readme.tiny_vlm", lambda name, **options: model(f"tiny/{name}", **options))
    listed = [line.split(" | ")[0].removeprefix("| ") for line in readme.tested_models().splitlines() if line.startswith("| ")][1:]
    assert listed == [*shipped(), *(f"tiny/{name}" for name in TINY), f"tiny/{TINY[0]}"]
