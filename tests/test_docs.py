"""The documents say what the code does."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import typer.main
import yaml

from flows.cli import app
from flows.parameter_page import PAGE, page
from flows.parameters import checked, read_parameters
from serving.artifact import read
from serving.predictor import load_predictor
from tasks.evaluation.lines import wanted_lines
from tests.conftest import Pipeline

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_parameter_page_is_the_models() -> None:
    assert PAGE.read_text() == page(), "run: uv run python -m flows.parameter_page"


def test_every_thaw_command_in_the_readme_is_one() -> None:
    """Parsed by the real command line, options and all; benchmarks/demo.py runs them."""
    command = typer.main.get_command(app)
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    spoken = [line.split("thaw ", 1)[1] for line in lines if "uv run thaw " in line]
    assert len(spoken) >= 3
    for words in map(shlex.split, spoken):
        sub = command.get_command(None, words[0])  # type: ignore[attr-defined]
        assert sub is not None, words
        sub.make_context(words[0], words[1:])


def test_the_two_commands_stand_on_the_first_screen() -> None:
    first = "\n".join(README.splitlines()[:45])
    assert "python3 -m pip install uv && uv run thaw demo" in first
    assert "uv run pytest" in README


def test_the_readmes_configuration_is_valid(tmp_path: Path) -> None:
    (block,) = blocks("yaml")
    config = tmp_path / "my-model.yaml"
    config.write_text(block)
    parameters = read_parameters({"name": "my-model", "data": {"root": "pictures"}}, config, [])
    assert parameters.decision.watch[0].recall == 0.90


def test_the_gate_pages_lines_are_valid() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "gate.md").read_text(), flags=re.DOTALL)
    values = {"name": "my-model", "data": {"root": "pictures", "slices": ["site"]}}
    parameters = checked(values | yaml.safe_load(block))
    lines = wanted_lines(parameters.gate, ("functional", "defective"), {"site": ("north", "south")})
    assert {"defective in site=north", "defective in site=south"} <= {line.scope for line in lines}


def test_the_readmes_answer_has_the_shape_of_a_real_one(pipeline: Pipeline) -> None:
    (shown,) = (json.loads(block) for block in blocks("json"))
    assert set(shown) == {"label", "probability", "scores", "rule", "model", "provider", "request_id"}
    assert set(shown["model"]) == {"name", "version", "digest"}
    predictor = load_predictor(read(pipeline.certified.artifact), "cpu")
    assert shown["provider"] == predictor.provider
    assert [set(score) for score in shown["scores"]] == [{"label", "probability"}] * 2


def test_links_in_the_documents_lead_somewhere() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} -> {target}"
