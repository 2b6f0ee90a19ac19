"""`thaw init`: a commented configuration file for a folder of pictures."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from flows.parameters import checked
from serving import sealed
from serving.errors import BadInput
from tasks.data.source import find_pictures

FILE = Path("thaw.yaml")

_TEMPLATE = """\
# What Thaw should do with these pictures, and what must be shown before a model goes live.
# Every parameter, with units and ranges: docs/parameters.md
#   thaw retrain --config {file}
#   thaw schedule {name} --config {file} --cron "0 2 * * *"
name: {name}

data:
  root: {root}
  # {found}
  # pictures of one thing (a module, a patient, a belt) never stand on both sides of the split; a regular expression on
  # the path below the root, or a manifest's column:
  # group_by: "module-(\\\\d+)"

# The class that must not be missed: its threshold is chosen so that it finds this share of its pictures.
# decision:
#   watch:
#     - {{label: {rarest}, recall: 0.90}}

# What must be shown on pictures never trained on, by the lower end of the 95 % interval. Without lines of your own only
# the built-in ones hold: better than chance, every class's recall >= 0.5, not worse than the champion.
# gate:
#   min_recall: {{{rarest}: 0.80}}
#   min_accuracy: 0.85

# model:
#   backbone: timm/tf_efficientnet_lite0   # its weights come with Thaw; others: docs/parameters.md
#   image_size: 224                        # pixels; less is faster

finetune:
  epochs: 5
  # augmentation: industrial   # any orientation, some in grey; `natural` for photos with an up and a down; `none`

# release:
#   promote: manual            # ask a person in the Prefect UI before a version goes live
#   approval_hours: 72
"""


def write_config(data: Path, name: str | None, file: Path) -> dict[str, Any]:
    """Writes `file` for the pictures at `data`. Raises BadInput: no classes there, or the file exists."""
    root = data.expanduser().absolute()
    if file.exists():
        raise BadInput(f"expected no file at {file}, found one: remove it, or name another with --output")
    if not file.absolute().parent.is_dir():
        raise BadInput(f"expected a folder for {file}, found none: create it, or name another file with --output")
    name = name or name_of(root)
    counts = Counter(
        source.label
        for source in find_pictures(checked({"name": name, "data": {"root": root}}).data)
        if source.refused is None
    )
    found = ", ".join(f"{label} {count}" for label, count in sorted(counts.items())[:12])
    rarest = min(counts, key=lambda label: (counts[label], label))
    text = _TEMPLATE.format(
        file=_one_line(shlex.quote(str(file))),
        name=_scalar(name),
        root=_scalar(str(root)),
        found=f"found {sum(counts.values())} pictures of {len(counts)} classes: {_one_line(found)}",
        rarest=_scalar(rarest),
    )
    checked(yaml.safe_load(text))
    sealed.write_text(file, text)
    return {
        "config": str(file),
        "name": name,
        "pictures": sum(counts.values()),
        "classes": dict(sorted(counts.items())),
    }


def name_of(root: Path) -> str:
    """A model name from a folder's, or a manifest's without its suffix.

    >>> name_of(Path("/data/Solar Cells (v1.2)"))
    'solar-cells-v1-2'
    """
    name = re.sub(r"[^a-z0-9]+", "-", (root.stem if root.is_file() else root.name).lower()).strip("-")[:63].strip("-")
    return name or "my-model"


def _scalar(text: str) -> str:
    """A YAML scalar on one line, quoted where it must be, also between brackets."""
    dumped = _listed(text, None)
    return dumped if len(dumped.splitlines()) == 1 else _listed(text, '"')


def _listed(text: str, style: str | None) -> str:
    # as a list's item: at the top commas and brackets would stay bare
    dumped = yaml.safe_dump([text], width=10_000, allow_unicode=True, default_flow_style=True, default_style=style)
    return dumped.strip()[1:-1]


def _one_line(text: str) -> str:
    """For a comment, where YAML takes no control characters either."""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())[:300]
