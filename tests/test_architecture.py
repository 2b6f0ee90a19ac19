"""The contract's structure, as tests: what may import what, and what a flow, a parameter form and a step look like."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
FOLDERS = {"flows", "tasks", "serving", "tests", "benchmarks", "docs"}
TOP = FOLDERS | {"prefect.yaml", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"}
CHAIN = ("prepare", "embed", "audit", "train_head", "finetune", "validate", "export", "certify", "publish", "promote")
# errors, sealed and locks are the vocabulary everything shares; the rest is the contract's list
SHARED = {"artifact", "preprocess", "predictor", "ledger", "store", "settings", "errors", "sealed", "locks"}


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.split("\n")[:-1]


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_import_contracts_hold() -> None:
    done = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_tasks_use_only_the_shared_parts_of_serving() -> None:
    for path in modules("tasks"):
        used = {name.split(".")[1] for name in imported(path) if name.startswith("serving.")}
        assert used <= SHARED, f"{path} uses {used - SHARED}"


def test_nothing_works_at_import_time_in_tasks() -> None:
    """Importing every step opens no file of ours and starts no thread: only definitions stand at the top level."""
    allowed = (
        ast.Import,
        ast.ImportFrom,
        ast.FunctionDef,
        ast.ClassDef,
        ast.Assign,
        ast.AnnAssign,
        ast.AugAssign,
        ast.Expr,
    )
    for path in modules("tasks"):
        body = ast.parse(path.read_text()).body
        if body and ast.unparse(body[-1]).startswith("if __name__ == '__main__':"):  # a process that a step starts
            body.pop()
        assert all(isinstance(node, allowed) for node in body), path


def test_the_flow_runs_the_chain_in_order() -> None:
    source = (ROOT / "flows" / "retrain.py").read_text()
    chain = source.index("def _chain(")
    steps = [name.lower() for name in re.findall(r"clock\.run\(\s*(\w+)", source[chain:])]
    assert tuple(steps) == CHAIN
    assert " -> ".join(CHAIN) in source
    assert " -> ".join(CHAIN) in (ROOT / "README.md").read_text()


def test_the_top_level_is_the_contract() -> None:
    found = {name.split("/")[0] for name in tracked()}
    assert {name for name in found if not name.startswith(".")} <= TOP


def test_files_and_functions_stay_small() -> None:
    for package in ("flows", "tasks", "serving"):
        for path in modules(package):
            assert len(path.read_text().splitlines()) <= 270, f"{path} is long: split it"
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                    length = node.end_lineno - node.body[0].lineno + 1
                    assert length <= 60, f"{path}: {node.name} has {length} lines"


def test_no_lock_file_and_no_large_file_is_tracked() -> None:
    names = set(tracked())
    assert not names & {"uv.lock", "package-lock.json", "pylock.toml"}
    large = [name for name in names if (ROOT / name).is_file() and (ROOT / name).stat().st_size > 1_000_000]
    assert not large


def test_the_bento_asks_for_what_serving_imports_and_nothing_else() -> None:
    """Each with the bounds that the project itself has."""
    wanted = yaml.safe_load((ROOT / "serving" / "bentofile.yaml").read_text())["python"]["packages"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert set(wanted) <= set(project)
    modules = {"PIL": "pillow", "onnxruntime": "onnxruntime-gpu", "typing_extensions": "typing-extensions"}
    modules |= {
        "pydantic_settings": "pydantic-settings",
        "prometheus_client": "prometheus-client",
        "_bentoml_sdk": "bentoml",
        "python_multipart": "python-multipart",
    }
    outside = {name.partition(".")[0] for path in ROOT.glob("serving/*.py") for name in imported(path)}
    outside -= {*sys.stdlib_module_names, "serving"}
    found = {re.split(r"[<>=\[ ]", line)[0] for line in wanted}
    assert {modules.get(name, name) for name in outside} <= found
    used_by_others = {
        "fastapi",
        "httptools",
        "uvloop",
        "psycopg",
        "onnxruntime",
    }  # no import of ours
    assert found - {modules.get(name, name) for name in outside} <= used_by_others
