"""BentoML's own image type, as its guides show it: bentoml serve benchmarks.others.stock_bentoml:Stock."""

from __future__ import annotations

import os

import bentoml
import numpy as np
import onnxruntime as ort
from PIL.Image import Image, Resampling


@bentoml.service(workers=1)
class Stock:
    def __init__(self) -> None:
        self.session = ort.InferenceSession(os.environ["THAW_BENCH_MODEL"], providers=["CPUExecutionProvider"])
        self.side = int(os.environ["THAW_BENCH_SIDE"])

    @bentoml.api
    def predict(self, image: Image) -> list[float]:
        pixels = np.asarray(image.convert("RGB").resize((self.side, self.side), Resampling.BILINEAR))
        probabilities = self.session.run(["probabilities"], {"images": pixels[None]})[0]
        return [float(value) for value in probabilities[0]]
