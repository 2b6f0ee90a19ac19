"""Writes docs/parameters.md from the parameter models: `uv run python -m flows.parameter_page`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.parameters import Parameters
from tasks.spec import Spec

PAGE = Path(__file__).parent.parent / "docs" / "parameters.md"
_HEAD = """# Parameters of `retrain`

The same names everywhere: the form in the Prefect UI, a `--config` file (YAML), `--set group.key=value`.
Written from the models by `uv run python -m flows.parameter_page`; a test holds the two together.
"""


def page() -> str:
    """The page as Markdown: one table a group, one row a field."""
    schema = Parameters.model_json_schema()
    return "\n".join([_HEAD, *_groups(schema), ""])


def _groups(schema: dict[str, Any]) -> Iterator[str]:
    for name, field in Parameters.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, Spec):
            yield f"## {name}\n\n{group.__doc__ or ''}\n"
            yield _table(schema, group)
        else:
            yield f"`{name}`: {field.description}\n"


def _table(schema: dict[str, Any], group: type[Spec]) -> str:
    rows = ["| key | default | range | meaning |", "|---|---|---|---|"]
    for name, value in schema["$defs"][group.__name__]["properties"].items():
        default = f"`{value['default']}`" if "default" in value else "required"
        text = value.get("description", "").replace("|", "\\|")
        rows.append(f"| `{name}` | {default} | {_range(value)} | {text} |")
    return "\n".join(rows) + "\n"


def _range(value: dict[str, Any]) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    choices = [option for part in (value, *value.get("anyOf", ())) for option in part.get("enum", ())]
    limits = [
        f"{sign} {part[key]:g}"
        for part in (value, *value.get("anyOf", ()))
        for key, sign in signs.items()
        if key in part
    ]
    return ", ".join(map(str, choices or limits))


if __name__ == "__main__":
    PAGE.write_text(page())
