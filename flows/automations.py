"""Brings a Prefect server's automations to what `automations.yaml` says; there is the why of each."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import yaml
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import BlockDocumentCreate, BlockDocumentUpdate
from prefect.client.schemas.objects import BlockDocument
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr, ValidationError

from serving.errors import BadInput

FILE = Path(__file__).with_name("automations.yaml")
BLOCK = "thaw-notify"
_PLACEHOLDER = "$notify"
_NO_BLOCK = UUID(int=0)


def apply_automations(client: SyncPrefectClient | None, notify_url: str | None, file: Path = FILE) -> tuple[str, ...]:
    """Creates what the server lacks, updates what differs, removes the notifications when there is no URL for them.

    Returns the names that stand afterwards, in the file's order. Run again, it changes nothing. `client`: None for one
    of the API that Prefect's settings name.
    Raises BadInput: the file or the URL is wrong (nothing was changed then); Prefect's errors: the server refuses.
    """
    if notify_url is not None:
        _check_url(notify_url)
    wanted = load_automations(file)
    with nullcontext(client) if client else get_client(sync_client=True) as api:
        block = _keep_block(api, notify_url)
        for automation in load_automations(file, block) if block else wanted:
            standing = api.read_automations_by_name(automation.name)
            if block is None and _notifies(automation):
                _delete(api, standing)
            else:
                _bring(api, automation, standing)
        if block is None:
            _drop_block(api)
    return tuple(automation.name for automation in wanted if block or not _notifies(automation))


def load_automations(file: Path = FILE, block: UUID = _NO_BLOCK) -> tuple[AutomationCore, ...]:
    """The file as Prefect's own models; `block` stands where the file says $notify.

    Raises BadInput: no YAML, a value Prefect refuses, a key it would ignore, a name twice.
    """
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8").replace(_PLACEHOLDER, str(block)))
    except (OSError, yaml.YAMLError) as error:
        raise BadInput(f"expected a YAML file at {file}, found none that can be read: {error}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadInput(f"expected a list of automations in {file}, found {type(entries).__name__}")
    automations = tuple(_parse(entry, file) for entry in entries)
    names = [automation.name for automation in automations]
    if len(set(names)) < len(names):
        raise BadInput(f"expected each name once in {file}, found {', '.join(sorted(names))}")
    return automations


def _parse(entry: Mapping[str, Any], file: Path) -> AutomationCore:
    where = f"{file}, automation {entry.get('name', 'without a name')!r}"
    try:
        automation = AutomationCore.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadInput(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    unknown = _unknown(entry, automation.model_dump())
    if unknown:
        raise BadInput(f"{where}: expected keys that Prefect knows, found {unknown}: it would be ignored")
    return automation


def _unknown(given: Any, understood: Any) -> str | None:
    """The first key of the file that is not in what Prefect made of it."""
    if isinstance(given, Mapping) and isinstance(understood, Mapping):
        for key, value in given.items():
            if key not in understood:
                return str(key)
            inner = _unknown(value, understood[key])
            if inner:
                return f"{key}.{inner}"
    if isinstance(given, list) and isinstance(understood, list):
        found = (_unknown(*pair) for pair in zip(given, understood, strict=False))
        return next((inner for inner in found if inner), None)
    return None


def _bring(api: SyncPrefectClient, wanted: AutomationCore, standing: list[Automation]) -> None:
    """One automation of that name, as wanted; whether it is switched on is the user's from then on."""
    if not standing:
        api.create_automation(wanted)
        return
    first, *others = standing
    _delete(api, others)
    # the server accepts an update only without the field for an owner, be it empty
    target = AutomationCore(**wanted.model_dump(exclude={"owner_resource"}) | {"enabled": first.enabled})
    if target.model_dump() != first.model_dump(exclude={"id"}):
        api.update_automation(first.id, target)


def _delete(api: SyncPrefectClient, automations: list[Automation]) -> None:
    for automation in automations:
        api.delete_automation(automation.id)


def _notifies(automation: AutomationCore) -> bool:
    return any(action.type == "call-webhook" for action in automation.actions)


def _check_url(url: str) -> None:
    """Never says the URL: with many services it is the password."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and not any(c.isspace() for c in url)
    except ValueError:
        valid = False
    if not valid:
        raise BadInput("expected an http:// or https:// URL in THAW_NOTIFY_URL, found something else (not shown)")


def _keep_block(api: SyncPrefectClient, url: str | None) -> UUID | None:
    """The webhook block with this URL in its secret field; the server keeps it encrypted."""
    if url is None:
        return None
    headers = {"Content-Type": "application/json"}
    data = Webhook(url=SecretStr(url)).model_dump(mode="json", include={"method", "verify", "allow_private_urls"})
    data |= {"url": url, "headers": headers}
    standing = _read_block(api)
    if standing is None:
        kind = api.read_block_type_by_slug(Webhook.get_block_type_slug())
        schema = api.get_most_recent_block_schema_for_block_type(kind.id)
        if schema is None:
            raise BadInput("expected the block type Webhook on the Prefect server, found none: restart the server")
        wanted = BlockDocumentCreate(name=BLOCK, data=data, block_type_id=kind.id, block_schema_id=schema.id)
        return api.create_block_document(wanted).id
    if {key: standing.data.get(key) for key in data} != data:
        api.update_block_document(standing.id, BlockDocumentUpdate(data=data, merge_existing_data=False))
    return standing.id


def _drop_block(api: SyncPrefectClient) -> None:
    standing = _read_block(api)
    if standing is not None:
        api.delete_block_document(standing.id)


def _read_block(api: SyncPrefectClient) -> BlockDocument | None:
    try:
        return api.read_block_document_by_name(BLOCK, Webhook.get_block_type_slug())
    except ObjectNotFound:
        return None
