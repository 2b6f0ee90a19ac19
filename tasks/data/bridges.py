"""Bridges: new pictures linked to old ones of two splits. They are left out before units are made, so that a bridge
takes no harmless picture with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tasks.data.spec import DataSpec
from tasks.data.split import BRIDGE, FIRST, Draw, Picture, Place, Table, by_name, place, unit_name
from tasks.data.units import NEAR, components

Looks = npt.NDArray[np.uint8]


def divide(
    pictures: Sequence[Picture],
    looks: Looks | None,
    table: Table,
    spec: DataSpec,
    draw: Draw = FIRST,
    torn: bool = False,
) -> list[Place]:
    """`split.place` of the pictures, their units made here; `looks` is None where they do not count."""
    united = _united(pictures, looks)
    bridges = set() if any(picture.given for picture in pictures) else _bridges(united, looks, table)
    kept = [i for i in range(len(pictures)) if i not in bridges]
    if bridges:
        united = _united([pictures[i] for i in kept], None if looks is None else looks[kept])
    places = dict(zip(kept, place(united, table, spec, draw, torn), strict=True))
    return [places.get(i) or Place(unit_name([picture]), BRIDGE) for i, picture in enumerate(pictures)]


def _united(pictures: Sequence[Picture], looks: Looks | None) -> list[Picture]:
    units = components([picture.digest for picture in pictures], [picture.group for picture in pictures], looks)
    return [replace(picture, unit=unit) for picture, unit in zip(pictures, units, strict=True)]


def _bridges(pictures: Sequence[Picture], looks: Looks | None, table: Table) -> set[int]:
    """Those whose own look, bytes or group link them to more than one split. A chain of new ones is left to `place`."""
    known = by_name(table)
    members: dict[int, list[int]] = defaultdict(list)
    for i, picture in enumerate(pictures):
        members[picture.unit].append(i)
    linked: dict[str, set[str]] = defaultdict(set)  # by digest: a copy may be in another group
    for unit in members.values():
        old = [i for i in unit if pictures[i].digest in table]
        splits = np.array([table[pictures[i].digest].split for i in old])
        for i in unit if len(old) < len(unit) else ():
            picture = pictures[i]
            if picture.digest in table:
                continue
            linked[picture.digest] |= {found.split for found in known.get(unit_name([picture]), ())}
            if picture.group is not None:
                linked[picture.digest] |= {
                    table[pictures[j].digest].split for j in old if pictures[j].group == picture.group
                }
            if looks is not None and old:
                near = np.bitwise_count(looks[old] ^ looks[i]).sum(axis=1) <= NEAR
                linked[picture.digest] |= set(splits[near].tolist())
    return {i for i, picture in enumerate(pictures) if len(linked.get(picture.digest, ())) > 1}
