"""Parameters of the exported file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.spec import Spec


class ExportSpec(Spec):
    """The file that is served."""

    precision: Literal["fp32", "fp16", "int8"] = Field(
        "fp32",
        description="of weights and arithmetic; int8 is calibrated on training pictures. Each has its own temperature, "
        "threshold, figures and gate",
    )
