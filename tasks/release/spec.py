"""Parameters of the release."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.spec import Spec


class ReleaseSpec(Spec):
    """What happens to a version that PASSED."""

    promote: Literal["auto", "manual", "never"] = Field(
        "auto",
        description="auto makes it the champion at once; manual asks a person: a deployment's run waits for the "
        "answer, elsewhere it is `thaw promote`; never only publishes",
    )
    approval_hours: float = Field(
        72, gt=0, le=24 * 90, description="hours a deployment's run waits for the answer; then it is refused"
    )
