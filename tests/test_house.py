"""The rules of the house: floors, no family names upstairs, no catch-all modules, no prints."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "interp").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))

FAMILY = re.compile(r"llava|qwen|gemma|internvl", re.IGNORECASE)
# `demo/llava` is the public name of a shipped model, an id like any other that a user types: it selects nothing by family.
MODEL_ID = re.compile(r"\bdemo/\w+")
# Who must name families: testing builds a tiny model of each, an organism is a model of one, and nobody above looks inside them.
# cli.py is no exception: its help is docstrings, which do not count, and its defaults are model ids.
NAMES_FAMILIES = ("families/", "organisms/", "testing/")

PUBLIC = {
    "analysis",
    "benchmarks",
    "circuits",
    "demo",
    "errors",
    "findings",
    "interventions",
    "methods",
    "organisms",
    "plots",
    "reproduce",
    "testing",
}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """The import contracts of this repository on the packages in `folder`."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(sys.argv[1], no_cache=True, no_logo=True))"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {code}", str(ROOT / "pyproject.toml")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def test_imports_keep_to_their_floors() -> None:
    """Every contract in pyproject.toml holds."""
    done = _lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("interp/families/a.py", "import interp.vlm", "Imports run downward only"),
        ("interp/plots/a.py", "import interp.capture", "Imports run downward only"),
        ("interp/testing.py", "import interp.organisms", "Imports run downward only"),
        ("interp/stray.py", "", "Imports run downward only"),
        ("interp/vlm.py", "import interp", "Imports run downward only"),  # the root leads everywhere
        ("interp/analysis/a.py", "import torch", "without torch"),
        ("interp/analysis/a.py", "from interp.families import deep", "without torch"),  # one step away
        ("interp/plots/a.py", "import transformers", "without torch"),
        ("interp/capture/a.py", "import interp.capture.b", "No cycles"),
        ("interp/vlm.py", "import experiments", "experiments stands on interp"),
        ("experiments/a.py", "from interp.capture import a", "public names only"),
        ("interp/capture/c.py", "import interp.vlm, interp.analysis, torch", None),
        ("experiments/a.py", "import interp, interp.analysis", None),
    ],
)
def test_the_contracts_catch_a_wrong_import(tmp_path: Path, module: str, line: str, contract: str | None) -> None:
    """A small copy of the house, with one import added: the contract that speaks about it breaks, and no other does."""
    packages = ["interp", "experiments", *(f"interp/{p}" for p in ("analysis", "plots", "families", "capture", "organisms", "benchmarks"))]
    files = {f"{package}/__init__.py": "" for package in packages}
    files |= dict.fromkeys(("interp/errors.py", "interp/prompts.py", "interp/vlm.py", "interp/testing.py", "interp/cli.py"), "")
    files |= {"interp/families/deep.py": "import torch", "interp/capture/a.py": "", "interp/capture/b.py": "import interp.capture.a"}
    files["interp/__init__.py"] = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import interp.capture"
    for name, text in {**files, module: line}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    done = _lint(tmp_path)
    assert (done.returncode == 0) == (contract is None), done.stdout + done.stderr
    broken = re.findall(r"^(.*) BROKEN", done.stdout, re.MULTILINE)
    assert [name for name in broken if contract is None or contract not in name] == []
    assert contract is None or broken, done.stdout + done.stderr


def _words(tree: ast.Module) -> list[tuple[int, str]]:
    """Every identifier and string of a module with its line; docstrings and other strings that stand alone are left out."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    words: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            words.append((line, MODEL_ID.sub("", node.value)))
        words += [
            (line, value)
            for field in ("id", "attr", "arg", "name", "asname", "module")
            if isinstance(value := getattr(node, field, None), str)
        ]
    return words


def test_words_are_identifiers_and_strings_but_not_docstrings() -> None:
    """The rule below sees what it should see."""
    text = '"""llava"""\n# qwen\nfrom interp.families import llava\nx = "demo/llava" + f"Gemma{x}"\ndef f(qwen_size): "internvl"\n'
    found = [(line, word) for line, word in _words(ast.parse(text)) if FAMILY.search(word)]
    assert sorted(found) == [(3, "llava"), (4, "Gemma"), (5, "qwen_size")]


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_no_family_is_named_outside_families(path: Path) -> None:
    """Downstream of the geometry nothing knows which family a model is of."""
    if path.relative_to(ROOT / "interp").as_posix().startswith(NAMES_FAMILIES):
        pytest.skip("this module builds models of named families")
    found = [f"line {line}: {word[:60]!r}" for line, word in _words(ast.parse(path.read_text())) if FAMILY.search(word)]
    assert found == [], f"{_name(path)} names a model family; ask `vlm.family` instead"


@pytest.mark.parametrize("path", [*SOURCES, *EXPERIMENTS], ids=_name)
def test_modules_are_named_by_their_idea_and_do_not_print(path: Path) -> None:
    """No drawer for everything; libraries log, and only the command line writes to a terminal, through rich."""
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc"}
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"] == []


@pytest.mark.parametrize("path", EXPERIMENTS, ids=_name)
def test_experiments_use_public_names(path: Path) -> None:
    """`interp` and its public packages; nothing whose name begins with an underscore, nothing two floors down."""
    wrong: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module]
            if node.module.split(".")[0] == "interp":
                wrong += [alias.name for alias in node.names if alias.name.startswith("_")]
        for module in modules:
            top, *inner = module.split(".")
            if top == "interp" and (len(inner) > 1 or not PUBLIC.issuperset(inner)):
                wrong.append(module)
    assert wrong == [], f"{_name(path)} imports what is not public"


@pytest.mark.parametrize("module", ["interp", "interp.benchmarks", "interp.errors", "interp.prompts", "interp.analysis", "interp.plots"])
def test_a_laptop_needs_no_torch(module: str) -> None:
    """Importing these loads no model library, whatever the import graph says (`interp` itself imports lazily)."""
    if not (ROOT / module.replace(".", "/") / "__init__.py").exists() and not (ROOT / (module.replace(".", "/") + ".py")).exists():
        pytest.skip(f"{module} is not there yet")
    code = f"import sys, {module}; sys.exit(' '.join({{'torch', 'transformers', 'nnsight', 'transformer_lens'}} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"importing {module} loads: {done.stderr}"
