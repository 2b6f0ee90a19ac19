"""BentoML's own batching over its own image type: bentoml serve benchmarks.others.batching_bentoml:Batching."""

from __future__ import annotations

import os

import bentoml
import numpy as np
import onnxruntime as ort
from PIL.Image import Image, Resampling


@bentoml.service(workers=1)
class Batching:
    def __init__(self) -> None:
        self.session = ort.InferenceSession(os.environ["THAW_BENCH_MODEL"], providers=["CPUExecutionProvider"])
        self.side = int(os.environ["THAW_BENCH_SIDE"])

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=1000)
    def predict(self, images: list[Image]) -> list[list[float]]:
        size = (self.side, self.side)
        pixels = [np.asarray(image.convert("RGB").resize(size, Resampling.BILINEAR)) for image in images]
        return self.session.run(["probabilities"], {"images": np.stack(pixels)})[0].tolist()
