"""Parameters of the two training phases."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tasks.spec import Spec


class HeadSpec(Spec):
    """Phase one: only the head, on the frozen backbone's features."""

    method: Literal["solve", "adam"] = Field(
        "solve",
        description="solve: multinomial logistic regression to convergence, weight decay chosen on validation; "
        "adam: gradient steps for a number of epochs",
    )
    epochs: int = Field(10, ge=1, le=10_000, description="adam only")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="adam only")
    batch_size: int = Field(64, ge=1, le=65_536, description="adam only; pictures per step")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: every class counts the same in the loss, however rare"
    )


class FinetuneSpec(Spec):
    """Phase two: everything unfrozen, at small rates, starting from that head."""

    epochs: int = Field(5, ge=0, le=1000, description="0 keeps the head-only model")
    learning_rate: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = Field(
        1e-4,
        description="peak rate of the head and the last layers (AdamW); auto: the best of a few short trials on "
        "validation, which cost up to 160 steps and 8 passes over validation more",
    )
    unfreeze: Literal["all", "gradual"] = Field(
        "all", description="gradual: the last layers first, all of them from the middle of the epochs on"
    )
    layer_decay: float = Field(
        0.2, gt=0, le=1, description="the earliest layer's rate as a share of learning_rate; geometric in between"
    )
    batch_size: int = Field(32, ge=1, le=4096, description="pictures per step")
    weight_decay: float = Field(0.05, ge=0, le=1, description="on weights, not on biases and norms")
    warmup: float = Field(
        0.1, ge=0, lt=1, description="share of all steps in which the rate rises; then cosine to zero"
    )
    label_smoothing: float = Field(0.05, ge=0, lt=1, description="share of the target spread evenly over all classes")
    mixup: float = Field(0.0, ge=0, le=10, description="pictures blended in pairs, shares from Beta(a, a); 0: none")
    cutmix: float = Field(0.0, ge=0, le=10, description="windows of one picture in another, likewise; 0: none")
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay a step of the weights' moving average, which is what is kept; 0: none"
    )
    interpolate: bool = Field(
        True, description="afterwards try weights between the head-only and the fine-tuned ones on validation"
    )
    clip_norm: float = Field(5.0, gt=0, description="largest gradient norm")
    augmentation: Literal["natural", "industrial", "none"] = Field(
        "natural",
        description="natural: mirrored, zoomed, light changes; industrial: no preferred orientation (mirrored and "
        "turned), a fifth without colours; none",
    )
    batchnorm: Literal["frozen", "train"] = Field(
        "frozen", description="BatchNorm statistics: frozen keeps the pretrained ones, right for small data"
    )
    patience: int = Field(5, ge=1, description="epochs without a better validation loss before stopping")
