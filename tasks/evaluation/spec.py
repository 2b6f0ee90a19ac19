"""Parameters of the decision rule and the gate."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tasks.spec import Spec


class WatchSpec(Spec):
    """A class that matters more, and what is wanted of it: either recall or precision."""

    label: str = Field(description="the class")
    recall: float | None = Field(None, gt=0, lt=1, description="share of this class's pictures that must be found")
    precision: float | None = Field(
        None, gt=0, lt=1, description="share of the pictures so labelled that must be right"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.recall is None) == (self.precision is None):
            raise ValueError(f"expected either recall or precision for {self.label!r}, found both or neither")
        return self


class DecisionSpec(Spec):
    """Without watched classes the likeliest class is decided."""

    watch: tuple[WatchSpec, ...] = Field((), description="watched classes, the most important first")


class LineSpec(Spec):
    """One line of the gate, as data."""

    metric: Literal[
        "accuracy", "balanced_accuracy", "macro_recall", "macro_precision", "macro_f1", "recall", "precision", "f1"
    ] = Field(description="what is measured; recall, precision and f1 are of one class")
    split: Literal["train", "validation", "test"] = Field("test", description="on which pictures")
    scope: str = Field("overall", description="overall, or a class for recall, precision and f1")
    operator: Literal[">=", "<="] = Field(">=", description=">= for a lower, <= for an upper limit")
    threshold: float = Field(ge=0, le=1, description="the limit, a share")
    severity: Literal["fail", "warn"] = Field("fail", description="warn is shown and never decides")
    evidence: Literal["interval", "point"] = Field(
        "interval", description="interval: the confidence interval's end must reach the threshold; point: the value"
    )

    @model_validator(mode="after")
    def _scope_fits_metric(self) -> Self:
        if (self.metric in ("recall", "precision", "f1")) == (self.scope == "overall"):
            raise ValueError(f"expected a class as scope of {self.metric}, and `overall` else, found {self.scope!r}")
        return self


class GateSpec(Spec):
    """What a model must show on the held-out pictures. The built-in lines always hold as well."""

    min_accuracy: float | None = Field(None, ge=0, le=1, description="by interval")
    min_macro_recall: float | None = Field(None, ge=0, le=1, description="mean recall over classes, by interval")
    min_recall: float | dict[str, float] | None = Field(None, description="for every class, or per class; by interval")
    lines: tuple[LineSpec, ...] = Field((), description="any other line")
    champion_recall_margin: float = Field(
        0.02, ge=0, le=1, description="how much worse than the champion the watched class's (else macro) recall may be"
    )
    champion_accuracy_margin: float = Field(0.05, ge=0, le=1, description="the same for accuracy")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of every two-sided interval")
    stop_early: bool = Field(
        False, description="stop before export, publishing nothing, when validation already rules a line out"
    )

    @model_validator(mode="after")
    def _recalls_are_shares(self) -> Self:
        values = self.min_recall.values() if isinstance(self.min_recall, dict) else [self.min_recall or 0.0]
        if not all(0 <= value <= 1 for value in values):
            raise ValueError(f"expected min_recall between 0 and 1, found {self.min_recall}")
        return self
