"""Parameters of the data step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from tasks.spec import Spec


class DataSpec(Spec):
    """Which pictures, and how they are divided."""

    root: Path = Field(
        description="on the worker's machine, as an absolute path (commands complete a relative one): a folder with "
        "one folder per class; a folder with train/, validation/ and test/ of class folders; or a manifest (CSV or "
        "Parquet): path, label[, group][, split]"
    )
    train: float = Field(0.70, gt=0, lt=1, description="share of the units used for training")
    validation: float = Field(0.15, gt=0, lt=1, description="share used for choosing (epoch, temperature, threshold)")
    test: float = Field(0.15, gt=0, lt=1, description="share held out for the gate")
    group_by: str | None = Field(
        None,
        description="keeps pictures of one patient, module, day ... together: a manifest column, or a regular "
        "expression on the relative path whose first group names it",
    )
    slices: tuple[str, ...] = Field(
        (),
        description="manifest columns (site, camera, cell type ...) whose values divide the pictures into slices: "
        "accuracy and recalls are reported per slice, the worst is named, and a gate line may hold for one",
    )
    near_duplicates: bool = Field(True, description="keep pictures that look the same (perceptual hash) together")
    seed: int = Field(0, ge=0, description="decides the first split; a name's split table never moves afterwards")
    max_unreadable: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="share of pictures that may be unreadable and are left out; above it the run stops",
    )
    verify: bool = Field(
        False,
        description="read every file again and compare its digest, even where names, sizes and times are unchanged",
    )

    @field_validator("root")
    @classmethod
    def _root_is_text(cls, root: Path) -> Path:
        try:
            str(root).encode()
        except UnicodeEncodeError:  # it would have no place in the JSON that records the run
            raise ValueError("expected a path in UTF-8, found another encoding: rename the folder") from None
        return root

    @model_validator(mode="after")
    def _fractions_sum_to_one(self) -> Self:
        total = self.train + self.validation + self.test
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            raise ValueError(f"expected train + validation + test = 1, found {total:.4g}")
        return self
