"""`thaw serve`: BentoML hosting the service, with its settings in the environment."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import sys
from pathlib import Path

from sqlalchemy.exc import OperationalError

from serving.database import is_there
from serving.errors import BadInput, DeviceError
from serving.ledger import opened
from serving.session import gpu_count
from serving.settings import Device, find_home, load_settings
from serving.store import resolve_name


def run_server(name: str | None, host: str, port: int, device: Device | None, insecure: bool, as_json: bool) -> None:
    """Replaces this process by `bentoml serve`; never returns. `as_json`: says on stdout where, and as which process.

    Raises BadInput: a non-loopback address without a token, a port that is taken, an unknown name, more than one model
    and no name; DeviceError.
    """
    settings = load_settings()
    name, device = name or settings.name, device or settings.device
    insecure |= settings.insecure or is_loopback(host)
    if settings.api_token is None and not insecure:
        raise BadInput(f"expected THAW_API_TOKEN for the address {host}, found none: set it, or say --insecure")
    if device == "cuda" and gpu_count() == 0:
        raise DeviceError("expected a GPU for device=cuda, the CUDA driver offers none here: use --device cpu or auto")
    home = find_home()
    name = known_name(settings.ledger or home, name)
    check_port(host, port, "--port")
    os.environ |= {"THAW_HOME": str(home), "THAW_DEVICE": device, "THAW_INSECURE": str(insecure)}
    os.environ |= {"THAW_NAME": name} if name else {}
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Thaw", "--host", host, "--port", str(port)]
    if as_json:
        print(json.dumps({"name": name, "url": url_of(host, port), "pid": os.getpid()}), flush=True)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # BentoML's log is no part of the document
    print(f"serving {name or 'the first model that is promoted'} on {url_of(host, port)}", file=sys.stderr, flush=True)
    os.execv(sys.executable, command)


def known_name(place: Path | str, name: str | None) -> str | None:
    """The name to answer with, as far as it can be told yet. Raises BadInput: no model is called so, or several are."""
    if not is_there(place):
        return name
    try:
        with opened(place, create=False) as ledger:
            return resolve_name(ledger, name) if ledger.names() else name
    except OperationalError:  # its database is restarted: the server goes on asking, and answers once it can
        return name


def check_port(host: str, port: int, option: str) -> None:
    """Raises BadInput, naming the option, where a server could not listen there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BadInput(
                f"expected port {port} of {host} to be free, found it taken or out of reach "
                f"({error.strerror}): stop what listens there, or choose another with {option}"
            ) from None


def url_of(host: str, port: int) -> str:
    """Where a server that listens there is reached from this machine.

    >>> url_of("0.0.0.0", 3000), url_of("::1", 3000)
    ('http://127.0.0.1:3000', 'http://[::1]:3000')
    """
    here = {"0.0.0.0": "127.0.0.1", "localhost": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound to
    return f"http://[{here}]:{port}" if ":" in here else f"http://{here}:{port}"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
