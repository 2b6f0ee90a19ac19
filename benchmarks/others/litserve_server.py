"""LitServe with its own batching: python litserve_server.py PORT."""

from __future__ import annotations

import base64
import os
import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime as ort

from serving.preprocess import Preprocessing, read_pixels

HALF = (0.5, 0.5, 0.5)


class Classifier(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.session = ort.InferenceSession(os.environ["THAW_BENCH_MODEL"], providers=["CPUExecutionProvider"])
        self.preprocessing = Preprocessing(image_size=int(os.environ["THAW_BENCH_SIDE"]), mean=HALF, std=HALF)

    def decode_request(self, request: dict[str, str]) -> Any:
        return read_pixels(base64.b64decode(request["image"]), self.preprocessing)

    def batch(self, inputs: list[Any]) -> Any:
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        return self.session.run(["probabilities"], {"images": x})[0]

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    api = Classifier(max_batch_size=8, batch_timeout=0.01)
    litserve.LitServer(api, accelerator="cpu").run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
