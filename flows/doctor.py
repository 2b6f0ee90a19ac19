"""`thaw doctor`: what works on this machine. Each thing is tried, not looked up."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows import quiet
from serving.database import is_there
from serving.errors import BadInput, ThawError
from serving.ledger import opened
from serving.session import Session, gpu_count
from serving.settings import Device, cores, find_home, load_settings, model_store

PACKAGES = (
    "thaw", "torch", "torchvision", "timm", "onnx", "onnxruntime-gpu", "onnxruntime", "prefect", "bentoml", "pillow",
)  # fmt: skip
FEW_BYTES = 5 * 10**9  # a retrain of 2,624 pictures writes 0.2 GB, one of 100,000 at 224 pixels 15 GB
SIDE = 8  # pixels
# pixels -> two classes, with the names and types that every exported model has
_PROBE = f"""
<ir_version: 10, opset_import: ["" : 20]>
probe (uint8[N, {SIDE}, {SIDE}, 3] images) => (float[N, 2] probabilities, float[N, 2] logits)
<int64[4] shape = {{2, 3, 3, 3}}, int64[2] flat = {{0, 2}}>
{{
    values = Cast<to = 1>(images)
    planes = Transpose<perm = [0, 3, 1, 2]>(values)
    weight = ConstantOfShape<value = float[1] {{0.1}}>(shape)
    maps = Conv(planes, weight)
    pooled = GlobalAveragePool(maps)
    logits = Reshape(pooled, flat)
    probabilities = Softmax<axis = 1>(logits)
}}
"""
_COLOURS = {"works": "green", "limited": "yellow", "broken": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """`limited`: the rest of Thaw works without it."""

    what: str
    state: Literal["works", "limited", "broken"]
    found: str


def examine() -> dict[str, Any]:
    """All findings, as JSON values; `works` is false if anything is broken. Writes nothing that stays."""
    with suppress(BadInput):  # a wrong setting: told by the findings that need it
        quiet.use_platform(find_home())
    checks: dict[str, Callable[[], Finding]] = {
        "versions": _versions,
        "training": _training,
        "predictions": _predictions,
        "weights": _weights,
        "home": lambda: _folder("home", find_home()),
        "model store": lambda: _folder("model store", model_store()),
        "ledger": _ledger,
        "Prefect": _prefect,
    }
    findings = [_tried(what, check) for what, check in checks.items()]
    return {"works": all(one.state != "broken" for one in findings), "findings": [asdict(one) for one in findings]}


def _tried(what: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except ThawError as error:
        return Finding(what, "broken", " ".join(str(error).split()))
    except Exception as error:  # whatever a library that is broken here raises: this command is about just that
        text = " ".join(str(error).split())[:300]
        return Finding(what, "broken", f"{type(error).__name__}: {text}")


def _versions() -> Finding:
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:  # of the two onnxruntimes a machine has one
            continue
    return Finding("versions", "works", ", ".join(found))


def _training() -> Finding:
    """One step of a convolution, on the device that `runtime.device: auto` takes."""
    import torch

    from tasks.model.device import torch_device

    device = torch_device("auto")
    layer = torch.nn.Conv2d(3, 2, 3).to(device)
    layer(torch.ones(1, 3, SIDE, SIDE, device=device)).sum().backward()
    if device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
        return Finding("training", "works", f"on the GPU: {torch.cuda.get_device_name(0)}, {memory / 2**30:.0f} GiB")
    if gpu_count():
        why = (
            f"the driver offers {gpu_count()} GPU, torch {torch.__version__} can use none: is it a build for its CUDA?"
        )
        return Finding("training", "broken", f"on the CPU only: {why}")
    return Finding("training", "works", f"on the CPU, {cores()} cores; the driver offers no GPU")


def _predictions() -> Finding:
    """A model of three layers in the serving code's own session."""
    import onnx

    wanted: Device = "cuda" if gpu_count() else "cpu"
    with tempfile.TemporaryDirectory(prefix="thaw-doctor-") as folder:
        model = Path(folder, "probe.onnx")
        onnx.save(onnx.parser.parse_model(_PROBE), model)
        session = Session(model, wanted)
        session.warm(SIDE)
    return Finding("predictions", "works", f"onnxruntime's {session.provider}")


def _weights() -> Finding:
    """The default backbone with its ImageNet weights."""
    from tasks.model.backbone import load_backbone
    from tasks.model.spec import ModelSpec

    spec = ModelSpec()
    body = load_backbone(spec, 224, seed=0)
    count = sum(parameter.numel() for parameter in body.parameters())
    return Finding("weights", "works", f"{spec.backbone}, pretrained, {count / 1e6:.1f} million")


def _folder(what: str, place: Path) -> Finding:
    """Can be written to, or made, and has room."""
    existing = next(path for path in (place, *place.parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        return Finding(what, "broken", f"{place}: expected a folder to write to, {existing} is none")
    free = shutil.disk_usage(existing).free
    told = f"{place}, {free / 1e9:.1f} GB free" + ("" if place.exists() else "; not there yet, will be made")
    if free < FEW_BYTES:
        return Finding(what, "limited", f"{told}: make room, `thaw gc` takes away old versions")
    return Finding(what, "works", told)


def _ledger() -> Finding:
    place = load_settings().ledger or find_home()
    if not is_there(place):
        return Finding("ledger", "works", "none yet: the first retrain makes it")
    with opened(place, create=False) as ledger:
        names = ledger.names()
        champions = sum(ledger.champion(name).version is not None for name in names)
    return Finding("ledger", "works", f"{len(names)} models, {champions} with a champion")


def _prefect() -> Finding:
    api = quiet.prefect_api()
    if not api.startswith("http"):
        return Finding("Prefect", "limited", f"{api}; schedules, forms and approvals need `thaw up`")
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    if error is not None:
        return Finding("Prefect", "broken", f"{api} does not answer ({type(error).__name__}): is `thaw up` running?")
    return Finding("Prefect", "works", api)


def print_findings(console: Console, body: Mapping[str, Any]) -> None:
    """One line each."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for one in body["findings"]:
        table.add_row(one["what"], f"[{_COLOURS[one['state']]}]{one['state']}[/]", escape(one["found"]))
    console.print(table)
