"""Parameters of the decision rule and the gate."""

from __future__ import annotations

from collections import Counter
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from tasks.spec import Spec

BY_CLASS = ("recall", "precision", "f1")
RATES = (
    "accuracy",
    "balanced_accuracy",
    *(f"{mean}_{name}" for mean in ("macro", "weighted") for name in BY_CLASS),
)
RANKINGS = ("roc_auc", "pr_auc")  # of one class, or the mean over all
LOSSES = ("log_loss", "brier", "calibration_error")
GAPS = tuple(f"{name}_gap" for name in (*RATES, *LOSSES))
BASELINES = ("majority", "head_only")
GAINED = ("accuracy", "macro_precision", "macro_recall", "macro_f1", "log_loss")
GAINS = tuple(
    f"{name}_over_{baseline}"
    for baseline in BASELINES
    for name in GAINED
    if (name, baseline) != ("macro_precision", "majority")  # what is never decided has no precision
)
MACHINE = ("model_size_mb", "latency_ms")
METRICS = (*RATES, *BY_CLASS, *RANKINGS, *LOSSES, *GAPS, *GAINS, *MACHINE)


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

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        """The first threshold takes the class's pictures; the advice to the second, to add some, would not help."""
        twice = [label for label, count in Counter(watch.label for watch in self.watch).items() if count > 1]
        if twice:
            raise ValueError(f"expected each class to be watched once, found {twice[0]!r} again: keep one of them")
        return self


class LineSpec(Spec):
    """One line of the gate, as data."""

    metric: str = Field(
        description="what is measured: recall, precision, f1 of a class; roc_auc, pr_auc of a class or all; accuracy, "
        "balanced_accuracy, macro_ or weighted_ recall, precision, f1; log_loss, brier, calibration_error; any of the "
        "last two rows with _gap (training minus validation); accuracy, macro_recall, macro_f1 or log_loss with "
        "_over_majority or _over_head_only (gain at argmax), macro_precision with the latter; model_size_mb; "
        "latency_ms (one picture)",
        json_schema_extra={"enum": list(METRICS)},
    )
    split: Literal["train", "validation", "test"] = Field("test", description="on which pictures")
    scope: str = Field(
        "overall",
        description="overall, a class, a slice `COLUMN=VALUE` (`COLUMN=*` is a line for every value), or "
        "`CLASS in COLUMN=VALUE`",
    )
    operator: Literal[">=", "<="] = Field(">=", description=">= for a lower, <= for an upper limit")
    threshold: float = Field(description="the limit: a share, a loss, a difference, megabytes or milliseconds")
    severity: Literal["fail", "warn"] = Field("fail", description="warn is shown and never decides")
    evidence: Literal["interval", "point"] = Field(
        "interval", description="interval: the confidence interval's end must reach the threshold; point: the value"
    )

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        if metric not in METRICS:
            raise ValueError(f"expected one of {', '.join(METRICS)}, found {metric!r}")
        return metric

    @model_validator(mode="after")
    def _fits(self) -> Self:
        by_class, overall = self.metric in BY_CLASS, self.scope == "overall"
        sliced = "=" in self.scope
        if (by_class and overall) or not (by_class or overall or sliced or self.metric in RANKINGS):
            raise ValueError(f"expected a class as scope of {self.metric}, and `overall` else, found {self.scope!r}")
        if not overall and self.metric in (*GAPS, *GAINS, *MACHINE):
            raise ValueError(f"expected scope `overall` for {self.metric}, found {self.scope!r}")
        if self.split != "test" and self.metric in (*GAINS, *MACHINE):
            raise ValueError(f"expected split `test` for {self.metric}, found {self.split!r}")
        if self.metric in (*RATES, *BY_CLASS, *RANKINGS) and not 0 <= self.threshold <= 1:
            raise ValueError(f"expected a threshold between 0 and 1 for {self.metric}, found {self.threshold}")
        return self


class GateSpec(Spec):
    """What a model must show on the held-out pictures. The built-in lines always hold as well."""

    min_accuracy: float | None = Field(None, ge=0, le=1, description="by interval")
    min_macro_recall: float | None = Field(None, ge=0, le=1, description="mean recall over classes, by interval")
    min_recall: float | dict[str, float] | None = Field(None, description="for every class, or per class; by interval")
    lines: tuple[LineSpec, ...] = Field((), description="any other line")
    champion_recall_margin: float | None = Field(
        None,
        ge=0,
        le=1,
        description="how much worse than the champion every watched class's recall or precision (as it is watched "
        "for; macro recall where none is for recall) may be: the paired interval must exclude more. Left out: 0.02, by "
        "value, with a warning where the interval does not",
    )
    champion_accuracy_margin: float | None = Field(
        None, ge=0, le=1, description="the same for accuracy. Left out: 0.05, by value"
    )
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
