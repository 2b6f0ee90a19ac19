"""Parameters of the model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.spec import Spec


class ModelSpec(Spec):
    """Which pretrained network, at which size."""

    backbone: str = Field(
        "timm/tf_efficientnet_lite0",
        pattern=r"^(timm|torchvision)/[A-Za-z0-9_.]+$",
        description="timm/NAME or torchvision/NAME",
    )
    weights: str = Field(
        "imagenet",
        description="imagenet (an installed weight package first, else the library's own download), none, or the "
        "path of a .safetensors or .pth state dict",
    )
    image_size: int | None = Field(
        None, ge=32, le=1024, description="side of the square input in pixels; default: the backbone's own"
    )
    resize: Literal["stretch", "crop", "pad"] = Field(
        "stretch",
        description="stretch loses nothing at the rim; crop keeps proportions and loses the rim; pad keeps both",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the head, in training")
