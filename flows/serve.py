"""`thaw serve`: BentoML hosting the service, with its settings in the environment."""

from __future__ import annotations

import ipaddress
import json
import os
import sys

from serving.database import FILE
from serving.errors import BadInput, DeviceError
from serving.ledger import opened
from serving.session import gpu_count
from serving.settings import Device, find_home, load_settings
from serving.store import resolve_name


def run_server(name: str | None, host: str, port: int, device: Device | None, insecure: bool, as_json: bool) -> None:
    """Replaces this process by `bentoml serve`; never returns. `as_json`: says on stdout where, and as which process.

    Raises BadInput: a non-loopback address without a token, more than one model and no name; DeviceError.
    """
    settings = load_settings()
    name, device = name or settings.name, device or settings.device
    if not is_loopback(host) and settings.api_token is None and not insecure:
        raise BadInput(f"expected THAW_API_TOKEN for the address {host}, found none: set it, or say --insecure")
    if device == "cuda" and gpu_count() == 0:
        raise DeviceError("expected a GPU for device=cuda, the CUDA driver offers none here: use --device cpu or auto")
    home = find_home()
    if home.is_dir() and (home / FILE).is_file():
        with opened(settings.ledger or home, create=False) as ledger:
            if ledger.names():
                name = resolve_name(ledger, name)
    os.environ |= {"THAW_HOME": str(home), "THAW_DEVICE": device, **({"THAW_NAME": name} if name else {})}
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Thaw", "--host", host, "--port", str(port)]
    if as_json:
        print(json.dumps({"name": name, "url": f"http://{host}:{port}", "pid": os.getpid()}), flush=True)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # BentoML's log is no part of the document
    print(f"serving {name or 'the first model that is promoted'} on http://{host}:{port}", file=sys.stderr, flush=True)
    os.execv(sys.executable, command)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
