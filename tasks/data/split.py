"""The split table: which picture is for training, validation or test. Old pictures never move.

First time, within each class, units ranked by sha256(seed, unit) are cut at the fractions. Afterwards the
table is authoritative: a new picture takes its unit's split, a new unit is placed by its rank, and a picture that
would join units of different splits (a bridge) is left out.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serving import sealed
from serving.errors import BadInput
from tasks.data.source import SPLITS
from tasks.data.spec import DataSpec

BRIDGE = "bridge"


class Torn(BadInput):
    """The split that the user gave has one picture, one group or one look in two."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What the split looks at: content digest, label, unit (index of its first picture), and what was given."""

    digest: str
    label: str
    unit: int
    group: str | None
    given: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """`group`: the name of the picture's own group, where its unit bears another's: else that would be forgotten."""

    unit: str
    split: str
    group: str = ""


Table = Mapping[str, Place]


@dataclass(frozen=True, slots=True)
class Draw:
    """Which draw a table is of. `worn`: of what earlier ones held out, the last that did (1, 2 ...)."""

    number: int = 0
    worn: Mapping[str, int] = field(default_factory=dict)


FIRST = Draw()


def read_table(path: Path) -> dict[str, Place]:
    """Picture digest -> place; empty where there is no table yet."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        return {row["digest"]: Place(row["unit"], row["split"], row.get("group") or "") for row in rows}


def table_text(table: Table) -> str:
    """The table as CSV: digest, unit, split, group; sorted, so that equal tables are equal bytes."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("digest", "unit", "split", "group"))
    writer.writerows((digest, place.unit, place.split, place.group) for digest, place in sorted(table.items()))
    return out.getvalue()


def write_table(path: Path, table: Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sealed.write_text(path, table_text(table))


def place(
    pictures: Sequence[Picture], table: Table, spec: DataSpec, draw: Draw = FIRST, torn: bool = False
) -> list[Place]:
    """One place per picture; `split` may be `bridge`.

    Raises BadInput if a class would be without a unit in some split, or a split given by the user holds out again what
    an earlier draw held out; Torn, unless `torn` allows it, if that split contradicts itself (the same picture or group
    in two) or the table.
    """
    members: dict[int, list[Picture]] = defaultdict(list)
    for picture in pictures:
        members[picture.unit].append(picture)
    known = by_name(table)
    if any(picture.given for picture in pictures):
        if not all(picture.given for picture in pictures):
            raise BadInput("expected a split for every picture or for none, found some without: complete the column")
        if not torn:
            _check_given(pictures, members, table)
        places = [Place(unit_name(members[picture.unit]), picture.given or "") for picture in pictures]
        check_unworn((picture.digest for picture in pictures if picture.given == "test"), draw.worn)
    elif any(picture.digest in table or unit_name([picture]) in known for picture in pictures):
        joined = {key: _joined(unit, table, known, spec, draw.number) for key, unit in members.items()}
        _check_groups(pictures, table)
        places = [_kept(picture, joined[picture.unit], table) for picture in pictures]
    else:
        first = _first(members, spec, draw)
        places = [first[picture.unit] for picture in pictures]
    _check_classes(pictures, places)
    return [_with_group(picture, found) for picture, found in zip(pictures, places, strict=True)]


def _with_group(picture: Picture, found: Place) -> Place:
    if picture.group is None:
        return found
    own = unit_name([picture])
    return Place(found.unit, found.split, "" if own == found.unit else own)


def unit_name(members: Sequence[Picture]) -> str:
    """A name that says nothing about the pictures: groups may be patients."""
    groups = sorted(picture.group for picture in members if picture.group is not None)
    text = f"group:{groups[0]}" if groups else f"picture:{min(picture.digest for picture in members)}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def rank(seed: int, unit: str, draw: int = 0) -> str:
    """The unit's place in the draw: 64 hex digits, uniform."""
    return hashlib.sha256(f"{seed}.{draw}:{unit}".encode() if draw else f"{seed}:{unit}".encode()).hexdigest()


def _first(members: Mapping[int, list[Picture]], spec: DataSpec, draw: Draw) -> dict[int, Place]:
    by_label: dict[str, list[tuple[int, str, str, int]]] = defaultdict(list)
    for key, pictures in members.items():
        unit = unit_name(pictures)
        worn = max(draw.worn.get(picture.digest, 0) for picture in pictures)  # held out again only in need
        by_label[_majority(pictures)].append((worn, rank(spec.seed, unit, draw.number), unit, key))
    places: dict[int, Place] = {}
    for label, units in by_label.items():
        test, validation = _cuts(len(units), label, spec)
        for position, (_, _, unit, key) in enumerate(sorted(units)):
            split = "test" if position < test else "validation" if position < validation else "train"
            places[key] = Place(unit, split)
    return places


def _cuts(units: int, label: str, spec: DataSpec) -> tuple[int, int]:
    """Where test and validation end among a class's ranked units; each split gets at least one."""
    if units < len(SPLITS):
        raise BadInput(
            f"expected at least {len(SPLITS)} separate pictures (or groups) of every class, one for each of "
            f"{', '.join(SPLITS)}, found {units} of {label!r}: add pictures, or leave the class out. "
            "Pictures that look alike count as one; if they are different things, set data.near_duplicates=false"
        )
    test = min(max(1, round(units * spec.test)), units - 2)
    validation = min(max(1, round(units * spec.validation)), units - 1 - test)
    return test, test + validation


def by_name(table: Table) -> dict[str, set[Place]]:
    """Where each unit of the table stands: a group is known by name when its old pictures are gone."""
    places: dict[str, set[Place]] = defaultdict(set)
    for found in table.values():
        for name in {found.unit, found.group} - {""}:
            places[name].add(found)
    return places


def _joined(
    unit: Sequence[Picture], table: Table, by_name: Mapping[str, set[Place]], spec: DataSpec, draw: int
) -> Place:
    """The place of a unit's new pictures when a table exists already."""
    known = {table[member.digest] for member in unit if member.digest in table}
    known |= {found for member in unit for found in by_name.get(unit_name([member]), ())}
    name = unit_name(unit)
    if len({found.split for found in known}) > 1:
        return Place(name, BRIDGE)
    if known and any(member.group is not None for member in unit):
        return Place(name, min(found.split for found in known))
    if known:
        one = min(known, key=lambda found: found.unit)
        return Place(one.unit, one.split)
    position = int(rank(spec.seed, name, draw), 16) / 2**256
    split = "test" if position < spec.test else "validation" if position < spec.test + spec.validation else "train"
    return Place(name, split)


def _kept(picture: Picture, joined: Place, table: Table) -> Place:
    """An old picture's own split, under the group it belongs to now: groups may have been named since."""
    old = table.get(picture.digest)
    if old is None:
        return joined
    if picture.group is None or joined.split == BRIDGE:
        return old
    return Place(joined.unit, old.split)


def _check_groups(pictures: Sequence[Picture], table: Table) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    for picture in pictures:
        if picture.group is not None and picture.digest in table:
            splits[picture.group].add(table[picture.digest].split)
    if any(len(found) > 1 for found in splits.values()):
        raise BadInput(
            "expected the pictures of one group in one split, found a group that earlier runs of this name divided "
            "(they knew no groups): choose another name"
        )


def _check_given(pictures: Sequence[Picture], members: Mapping[int, list[Picture]], table: Table) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    groups: dict[str, set[str]] = defaultdict(set)
    for picture in pictures:
        splits[picture.digest] |= {
            picture.given or "",
            *([table[picture.digest].split] if picture.digest in table else []),
        }
        if picture.group is not None:
            groups[picture.group].add(picture.given or "")
    torn = sum(len(found) > 1 for found in splits.values())
    if torn:
        raise Torn(
            f"expected each picture in one split only, found {torn} that stand in two (leakage), or that an earlier "
            "run of this name used otherwise: remove the copies, or choose another name"
        )
    torn = sum(len(found) > 1 for found in groups.values())
    if torn:
        raise Torn(
            f"expected each group in one split only, found {torn} that stand in two (leakage): "
            "give all pictures of a group the same split"
        )
    torn = sum(len({picture.given for picture in unit}) > 1 for unit in members.values())
    if torn:
        raise Torn(
            f"expected pictures that look the same in one split only, found {torn} sets that stand in two (leakage): "
            "move the copies, or set data.near_duplicates=false if they are different things"
        )


def check_unworn(given: Iterable[str | None], worn: Container[str | None]) -> None:
    """Of the test pictures that a user gave. A fresh draw sets the count of decisions to zero, which must not befall
    pictures that decided before. Raises BadInput."""
    held_out = sum(digest in worn for digest in given)
    if held_out:
        raise BadInput(
            f"expected other test pictures after a fresh held-out set was asked for, found {held_out} held out before: "
            "put others in test/ (or in the rows of split `test`)"
        )


def _majority(pictures: Sequence[Picture]) -> str:
    counts = Counter(picture.label for picture in pictures)
    return min(counts, key=lambda label: (-counts[label], label))


def _check_classes(pictures: Sequence[Picture], places: Sequence[Place]) -> None:
    counts = Counter((picture.label, found.split) for picture, found in zip(pictures, places, strict=True))
    labels = sorted({picture.label for picture in pictures})
    empty = [f"{label!r} in {split}" for label in labels for split in SPLITS if not counts[label, split]]
    if empty:
        raise BadInput(
            f"expected pictures of every class in every split, found none of {', '.join(empty[:6])}: add some"
        )
