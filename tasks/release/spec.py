"""Parameters of the release."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.spec import Spec


class ReleaseSpec(Spec):
    """What happens to a version that PASSED."""

    promote: Literal["auto", "manual", "never"] = Field(
        "auto",
        description="auto makes it the champion at once; manual leaves that to `thaw promote`; never only publishes",
    )
