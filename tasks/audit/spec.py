"""Parameters of the audit: what each finding means for a run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.spec import Spec

Kind = Literal[
    "leakage",
    "conflict",
    "duplicate",
    "near_duplicate",
    "left_out",
    "label_error",
    "unprovable",
    "shortcut",
    "imbalance",
    "tiny",
    "odd_shape",
    "dark",
    "bright",
    "blurry",
]


class AuditSpec(Spec):
    """What is looked for in the pictures before training, and what stops a run. What each kind means: docs/audit.md."""

    block: tuple[Kind, ...] = Field(
        ("leakage", "conflict"),
        description="kinds of findings that stop the run before training; the others are told. `leakage`: copies in "
        "two splits that you gave; `conflict`: one picture under two labels",
    )
    ignore: tuple[Kind, ...] = Field((), description="kinds that are not looked for, or not told")
    drop_copies: bool = Field(
        True,
        description="leave training pictures out that are copies of a test or validation picture (seen by features and "
        "confirmed on pixels), and validation copies of a test picture; only where Thaw splits",
    )
