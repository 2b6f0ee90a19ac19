"""The documents say what the code does."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer.main
import yaml

from flows.commands import app
from flows.parameter_page import PAGE, page
from flows.parameters import checked, read_parameters
from serving.artifact import read
from serving.predictor import load_predictor
from tasks.evaluation.lines import wanted_lines
from tests.conftest import Pipeline

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))
COMMAND = re.compile(r"(?:uv run )?thaw ([a-z].*)")  # at the start of a line, or after &&
FILE = re.compile(r"\b(?:flows|tasks|serving|benchmarks|tests)/[\w./-]*\w")
SCREEN = 100  # lines


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(document: Path) -> list[str]:
    """What stands after `thaw` on the lines of its bash blocks, without comments."""
    lines = [line for block in blocks("bash", document.read_text()) for line in block.splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [found[1] for found in map(COMMAND.match, parts) if found]


def pages() -> tuple[Path, ...]:
    """Those that people read from top to bottom."""
    return tuple(document for document in DOCUMENTS if document.parent != ROOT and document != PAGE)


def test_the_parameter_page_is_the_models() -> None:
    assert PAGE.read_text() == page(), "run: uv run python -m flows.parameter_page"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_thaw_command_in_the_documents_is_one(document: Path) -> None:
    """Parsed by the real command line, options and all; benchmarks/demo.py runs the README's."""
    command = typer.main.get_command(app)
    for spoken in commands(document):
        name, *words = shlex.split(spoken, comments=True)
        sub = command.get_command(None, name)  # type: ignore[attr-defined]
        assert sub is not None, spoken
        sub.make_context(name, words)


def test_the_commands_of_the_documents_are_found() -> None:
    spoken = {path.name: [line.split()[0] for line in commands(path)] for path in DOCUMENTS}
    assert spoken["README.md"] == ["demo", "serve", "init", "retrain", "up", "schedule"]
    assert {"show", "rollback", "promote", "gc"} <= set(spoken["operating.md"])
    assert {"schedule", "retrain"} <= set(spoken["orchestration.md"])


def test_the_readme_names_every_command() -> None:
    known = typer.main.get_command(app).list_commands(None)  # type: ignore[attr-defined]
    assert [name for name in known if f"`thaw {name}" not in README] == []


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
    (block,) = blocks("yaml", (ROOT / "docs" / "gate.md").read_text())
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
    """Other pages, pictures, and headings of pages."""
    for document in DOCUMENTS:
        for target, heading in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", document.read_text()):
            if "://" in target:
                continue
            place = document.parent / target if target else document
            assert place.is_file(), f"{document.name} -> {target}"
            assert not heading or heading in anchors(place), f"{document.name} -> {target}#{heading}"


def anchors(document: Path) -> set[str]:
    """Of its headings, as web pages of repositories make them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_picture_is_shown_and_small() -> None:
    shown = {name for document in DOCUMENTS for name in re.findall(r"\(pictures/([^)]+)\)", document.read_text())}
    pictures = {path.name: path.stat().st_size for path in (ROOT / "docs" / "pictures").iterdir()}
    assert shown == set(pictures)
    assert max(pictures.values()) < 150_000


def test_files_that_the_documents_name_exist() -> None:
    for document in DOCUMENTS:
        for name in FILE.findall(document.read_text()):
            assert (ROOT / name).exists(), f"{document.name} names {name}"


def test_pages_fit_on_about_a_screen() -> None:
    lines = {path.name: len(path.read_text().splitlines()) for path in pages()}
    assert {name: count for name, count in lines.items() if count > SCREEN} == {}
