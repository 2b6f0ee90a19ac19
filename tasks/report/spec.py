"""Parameters of the report."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.spec import Spec


class ReportSpec(Spec):
    """The gate report, which stays in `runs/` and is never shipped."""

    pictures: Literal["embed", "local", "none"] = Field(
        "embed",
        description="of the worst mistakes: embed puts small copies and file names into the page; local only links to "
        "the files on this machine; none leaves pictures and names out, for pages that travel (a clinic's)",
    )
