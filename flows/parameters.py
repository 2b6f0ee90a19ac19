"""The parameters of the `retrain` flow: the form in the UI, the configuration file, and `--set`.

Each group is owned by the step that uses it; here they meet. Separate top-level values, since a UI or schedule
override replaces a whole top-level value.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from serving.errors import BadInput
from tasks.audit.spec import AuditSpec
from tasks.data.source import absolute
from tasks.data.spec import DataSpec
from tasks.evaluation.spec import DecisionSpec, GateSpec
from tasks.export.spec import ExportSpec
from tasks.model.spec import ModelSpec
from tasks.release.spec import ReleaseSpec
from tasks.report.spec import ReportSpec
from tasks.spec import Spec
from tasks.training.spec import FinetuneSpec, HeadSpec

# pydantic names the member of a union in an error's place; a person knows only the key
_UNION_MEMBER = re.compile(r"int|float|str|dict\[.*\]|constrained-.*|literal\[.*\]")
_WANTED = {
    "missing": "a value",
    "path_type": "a path",
    "invalid_key": "text as a key",
    "string_pattern_mismatch": "text that matches {pattern}",
}
NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping: YAML would keep the last one in silence."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise BadInput(
                    f"expected each key once, found {key.value!r} again in line {key.start_mark.line + 1}: put what "
                    "belongs to it under the first one"
                )
            seen.add(key.value)
        return node


class RuntimeSpec(Spec):
    """Where it runs."""

    device: Literal["auto", "cuda", "cpu"] = Field("auto", description="cuda without a usable GPU is an error")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of fine-tuning's forward pass; auto: bf16 on a GPU, fp32 on the CPU. All else is fp32"
    )
    processes: int = Field(
        1, ge=1, le=1024, description="that share fine-tuning, one a GPU (torchrun); another number, another result"
    )
    seed: int = Field(0, ge=0, description="of training: initial weights, order, augmentation")


class Parameters(Spec):
    """Everything a retrain takes."""

    name: str = Field(pattern=NAME, description="model name: lowercase letters, digits and dashes, e.g. solar-cells")
    data: DataSpec
    audit: AuditSpec = AuditSpec()
    model: ModelSpec = ModelSpec()
    head: HeadSpec = HeadSpec()
    finetune: FinetuneSpec = FinetuneSpec()
    decision: DecisionSpec = DecisionSpec()
    gate: GateSpec = GateSpec()
    export: ExportSpec = ExportSpec()
    release: ReleaseSpec = ReleaseSpec()
    report: ReportSpec = ReportSpec()
    runtime: RuntimeSpec = RuntimeSpec()


def read_parameters(
    base: dict[str, Any], config: Path | None, settings: Sequence[str], given: dict[str, Any] | None = None
) -> Parameters:
    """Defaults, then `base`, then the file, then `given`, then each `key.path=value`; the later one wins.

    A relative `data.root` or file in `model.weights` is one from the working directory: a worker, or the next command,
    may have another.
    Raises BadInput naming every wrong key at once.
    """
    values = _merged(_merged(base, _read_file(config) if config else {}), given or {})
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not all(key.split(".")):
            raise BadInput(f"expected --set key.path=value, found {setting!r}: see docs/parameters.md")
        try:
            value = yaml.load(text, _UniqueKeys)  # noqa: S506 - a SafeLoader
        except BadInput as error:
            raise BadInput(f"--set {key}: {error}") from None
        except (yaml.YAMLError, ValueError):  # e.g. 2024-13-45, which is no date
            value = text
        for part in reversed(key.split(".")):
            value = {part: value}
        values = _merged(values, value)
    parameters = checked(values)
    whole: dict[str, Any] = {"data": parameters.data.model_copy(update={"root": absolute(parameters.data.root)})}
    weights = parameters.model.weights
    if weights not in ("imagenet", "none"):
        whole["model"] = parameters.model.model_copy(update={"weights": str(absolute(Path(weights)))})
    return parameters.model_copy(update=whole)


def checked(values: dict[str, Any]) -> Parameters:
    """Parameters from plain values. Raises BadInput: one line that names every key that is wrong."""
    try:
        return Parameters.model_validate(values)
    except ValidationError as error:
        raise BadInput(
            "; ".join(_sentence(where, list(found)) for where, found in groupby(error.errors(), _place))
        ) from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)  # noqa: S506 - a SafeLoader
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    except OSError as error:
        raise BadInput(
            f"expected a configuration file at {path}, found none that can be read ({error.strerror}): correct --config"
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # also bytes that are not UTF-8, and 2024-13-45, which is no date
        told = " ".join(str(error).split())[:150]
        raise BadInput(
            f"expected YAML in {path}, found otherwise: {told}; correct it, and quote what is text"
        ) from None
    if not isinstance(values, dict):
        raise BadInput(f"expected keys and values in {path}, found {type(values).__name__}")
    return values


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` wins, key by key, at every depth."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _sentence(where: str, details: Sequence[ErrorDetails]) -> str:
    """What is wrong with one key. Of a union, pydantic tells what each member wanted."""
    detail = details[0]
    if detail["type"] == "extra_forbidden":
        known = sorted(_fields(detail["loc"][:-1]))
        close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        return f"expected a known key, found {where}: {hint}"
    if detail["type"] == "value_error":  # a validator of ours, which says what it found
        return f"{where}: {detail['msg'].removeprefix('Value error, ')}"
    wanted = " or ".join(dict.fromkeys(_wanted(each) for each in details))
    found = "nothing" if detail["type"] == "missing" else repr(detail["input"])[:60]
    return f"{where}: expected {wanted}, found {found}"


def _place(detail: ErrorDetails) -> str:
    return ".".join(str(part) for part in detail["loc"] if not _UNION_MEMBER.fullmatch(str(part)))


def _wanted(detail: ErrorDetails) -> str:
    known_type = _WANTED.get(detail["type"])
    wanted = known_type.format_map(detail.get("ctx", {})) if known_type else detail["msg"]
    return wanted.removeprefix("Input should be ")


def _fields(location: tuple[int | str, ...]) -> set[str]:
    """The keys of the model at a location, as far as it is one."""
    model: Any = Parameters
    for part in location:
        if isinstance(part, int):  # a place in tuple[Model, ...]
            model = next(iter(get_args(model)), None)
            continue
        field = model.model_fields.get(str(part)) if isinstance(model, type) and issubclass(model, Spec) else None
        model = field.annotation if field else None
    return set(model.model_fields) if isinstance(model, type) and issubclass(model, Spec) else set()
