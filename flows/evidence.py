"""`thaw gate` and `thaw verify`: a verdict's arithmetic again, and the same verdict from the pictures themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.parameters import Parameters, checked, read_parameters
from serving.artifact import Artifact
from serving.errors import BadInput
from serving.ledger import opened
from serving.settings import Device, existing_home, load_settings
from serving.store import Store, parse_reference
from tasks.certification.replay import read_kept, replay
from tasks.evaluation.judgement import Judgement
from tasks.progress import Progress


def replay_gate(evaluation: Path, config: Path | None, settings: Sequence[str]) -> dict[str, Any]:
    """The verdict of an evaluation's evidence by its own parameters, changed by `config` and `settings`.

    `same`: it is the recorded one, line by line and picture by picture. Writes nothing.
    """
    kept = read_kept(evaluation)
    parameters = read_parameters(_kept_parameters(kept), config, settings)
    found = replay(evaluation, parameters.decision, parameters.gate, kept["precision"])
    return {
        **_judged(kept["name"], found.judgement),
        "rule": found.rule.text(),
        "recorded": {key: kept[key] for key in ("verdict", "verdict_digest", "rule")},
        "same": found.judgement.digest == kept["verdict_digest"],
    }


def verify_version(reference: str, data: Path, device: Device, progress: Progress) -> dict[str, Any]:
    """The verdict of a published version from the original pictures under `data`, predicted here. Writes nothing.

    Raises BadInput: no such version, pictures missing, or the champion it was compared with is not in this store.
    """
    name, version = parse_reference(reference)
    if name is None or version is None:
        raise BadInput(f"expected NAME:VERSION, found {reference!r}: see thaw show")
    from tasks.certification.verify import verify

    home = existing_home()
    with opened(load_settings().ledger or home, create=False) as ledger:
        store = Store(home, ledger)
        artifact = store.open(name, version)
        champion = _champion(store, name, artifact)
    contents = artifact.contents
    parameters = checked(_kept_parameters({"name": name, "configuration": contents.configuration}))
    sources = parameters.data.model_copy(update={"root": data})
    judgement = verify(artifact, champion, sources, parameters.decision, parameters.gate, device, progress)
    return {
        **_judged(name, judgement),
        "version": version,
        "recorded": {"verdict": contents.verdict, "verdict_digest": contents.verdict_digest},
        "same": judgement.digest == contents.verdict_digest,
    }


def _champion(store: Store, name: str, artifact: Artifact) -> tuple[Artifact, int, int] | None:
    version, generation = artifact.contents.champion_version, artifact.contents.champion_generation
    if version is None or generation is None:
        return None
    return store.open(name, version), version, generation


def _kept_parameters(kept: dict[str, Any]) -> dict[str, Any]:
    """What was recorded, as values for the parameter models; only decision and gate matter to a verdict."""
    recorded = kept["configuration"]
    empty: dict[str, Any] = {"name": kept["name"], "data": {"root": "."}}
    return empty | {key: recorded[key] for key in Parameters.model_fields if key in recorded}


def _judged(name: str, judgement: Judgement) -> dict[str, Any]:
    return {
        "name": name,
        "verdict": judgement.verdict,
        "verdict_digest": judgement.digest,
        "checks": [check.as_json() for check in judgement.checks],
    }
