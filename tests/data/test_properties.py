"""What must hold of a name's split whatever happens to its pictures: random histories, each from its own seed.

Pictures are added, deleted, renamed, put into groups, saved again and bridged; after every step the split is computed
anew from the table, as `prepare` does, and compared with the one before.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from serving.errors import BadInput
from tasks.data import bridges
from tasks.data.source import SPLITS
from tasks.data.spec import DataSpec
from tasks.data.split import BRIDGE, Picture, Place, table_text
from tasks.data.units import components

SPEC = DataSpec(root=Path("unused"), train=0.6, validation=0.2, test=0.2)
LABELS = ("good", "bad")
Random = np.random.Generator


@dataclass(frozen=True)
class Kept:
    """A file: its bytes, its look, its name and what the user says of it."""

    digest: str
    look: bytes
    name: str
    label: str
    group: str | None = None


@dataclass
class World:
    random: Random
    files: list[Kept] = field(default_factory=list)
    made: int = 0

    def new(self, look: bytes | None = None, label: str | None = None) -> Kept:
        self.made += 1
        digest = hashlib.sha256(f"{self.made}".encode()).hexdigest()
        look = look or self.random.bytes(32)
        label = label or LABELS[int(self.random.integers(2))]
        return Kept(digest, look, f"{self.random.integers(10**9)}.png", label)

    def any(self) -> int:
        return int(self.random.integers(len(self.files)))


def flipped(look: bytes, bits: range) -> bytes:
    changed = np.unpackbits(np.frombuffer(look, np.uint8))
    changed[list(bits)] ^= 1
    return np.packbits(changed).tobytes()


def add(world: World) -> None:
    world.files += [world.new() for _ in range(8)]


def delete(world: World) -> None:
    for _ in range(5):
        world.files.pop(world.any())


def rename(world: World) -> None:
    for _ in range(10):
        i = world.any()
        world.files[i] = replace(world.files[i], name=f"{world.random.integers(10**9)}.png")


def save_again(world: World) -> None:
    """Other bytes, nearly the same look: as a copy, or in place of the old file."""
    for _ in range(4):
        i = world.any()
        old, start = world.files[i], int(world.random.integers(250))
        copy = replace(world.new(flipped(old.look, range(start, start + 3)), old.label), group=old.group)
        if world.random.random() < 0.5:
            world.files[i] = copy
        else:
            world.files.append(copy)


def group(world: World) -> None:
    """Says that some pictures belong together; which may tear what an earlier run has divided: then it is refused."""
    name = f"patient {world.random.integers(10**6)}"
    for i in {world.any() for _ in range(2)}:
        world.files[i] = replace(world.files[i], group=name)


def bridge(world: World) -> None:
    """Two pictures 14 bits apart; the step after, one that is 7 bits from either."""
    first = world.new()
    second = world.new(flipped(first.look, range(14)), first.label)
    world.files += [first, second]
    for known in [file for file in world.files if file.name.startswith("half ")]:
        world.files.append(world.new(flipped(known.look, range(7)), known.label))
        world.files.remove(known)
        world.files.append(replace(known, name=known.name[5:]))
    world.files[world.files.index(first)] = replace(first, name=f"half {first.name}")


STEPS: tuple[Callable[[World], None], ...] = (add, delete, rename, save_again, group, bridge)


def divide(files: list[Kept], table: dict[str, Place]) -> list[Place]:
    """As `prepare`: in order of names."""
    looks = np.stack([np.frombuffer(file.look, np.uint8) for file in files])
    return bridges.divide([Picture(f.digest, f.label, -1, f.group, None) for f in files], looks, table, SPEC)


def sorted_files(world: World) -> list[Kept]:
    return sorted(world.files, key=lambda file: file.name)


def own_table(files: list[Kept], places: list[Place]) -> dict[str, Place]:
    return {f.digest: p for f, p in zip(files, places, strict=True) if p.split != BRIDGE}


def assert_no_unit_straddles(files: list[Kept], places: list[Place]) -> None:
    kept = [(file, found) for file, found in zip(files, places, strict=True) if found.split != BRIDGE]
    looks = np.stack([np.frombuffer(file.look, np.uint8) for file, _ in kept])
    units = components([file.digest for file, _ in kept], [file.group for file, _ in kept], looks)
    splits: dict[object, set[str]] = defaultdict(set)
    for unit, (_, found) in zip(units, kept, strict=True):
        splits[unit].add(found.split)
        splits[found.unit].add(found.split)
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_old_pictures_stay_and_units_stay_whole(seed: int) -> None:
    random = np.random.default_rng(seed)
    world = World(random)
    world.files = [world.new() for _ in range(60)]
    table: dict[str, Place] = {}
    refused = bridges = 0
    for _ in range(40):
        before = list(world.files)
        STEPS[int(random.integers(len(STEPS)))](world)
        files = sorted_files(world)
        try:
            places = divide(files, table)
        except BadInput as error:
            assert "group" in str(error) or "every class in every split" in str(error)
            world.files = before
            refused += 1
            continue
        bridges += sum(found.split == BRIDGE for found in places)
        own = own_table(files, places)
        for digest in {file.digest for file in files} & set(table):
            assert digest in own, "an old one was left out"
            assert own[digest].split == table[digest].split, "an old one moved"
        assert_no_unit_straddles(files, places)
        table |= own
        again = divide(files, table)
        assert table_text(own_table(files, again)) == table_text(own), "a second run says otherwise"
    assert refused < 35


def test_the_histories_reach_bridges_and_refusals() -> None:
    """Or the test above would prove nothing about them."""
    world = World(np.random.default_rng(0))
    world.files = [world.new() for _ in range(60)]
    files = sorted_files(world)
    table = own_table(files, divide(files, {}))
    told = 0
    for _ in range(30):
        bridge(world)
        files = sorted_files(world)
        places = divide(files, table)
        told += sum(found.split == BRIDGE for found in places)
        table |= own_table(files, places)
    assert told > 0
    torn = (
        next(f for f in world.files if table[f.digest].split == "test"),
        next(f for f in world.files if table[f.digest].split == "train"),
    )
    world.files = [replace(f, group="one patient") if f in torn else f for f in world.files]
    with pytest.raises(BadInput, match="a group that earlier runs of this name divided"):
        divide(sorted_files(world), table)


def test_a_bridge_takes_no_harmless_picture_with_it() -> None:
    """Neither a copy of one of those that it links, nor one that looks like the bridge alone, however long it stays."""
    world = World(np.random.default_rng(0))
    world.files = [world.new() for _ in range(40)]
    while True:
        first = world.new(label="good")
        second = world.new(flipped(first.look, range(14)), "good")
        old = [*world.files, first, second]
        table = own_table(old, divide(old, {}))
        if table[first.digest].split != table[second.digest].split:
            break
    between = world.new(flipped(first.look, range(7)), "good")
    harmless = world.new(flipped(first.look, range(100, 103)), "good")
    beyond = world.new(flipped(between.look, range(200, 206)), "good")
    for _ in range(2):
        places = divide([*old, between, harmless, beyond], table)
        assert [found.split for found in places[-3:-1]] == [BRIDGE, table[first.digest].split]
        assert places[-1].split in SPLITS
        table = own_table([*old, between, harmless, beyond], places)


@pytest.mark.parametrize("seed", range(5))
def test_names_and_their_order_decide_nothing(seed: int) -> None:
    """Another machine may list the files otherwise: the same bytes and the same prior table give the same table."""
    world = World(np.random.default_rng(seed))
    world.files = [world.new() for _ in range(80)]
    for step in (save_again, group, bridge, bridge):
        step(world)
    first = sorted_files(world)
    table = own_table(first, divide(first, {}))
    for step in (add, save_again, bridge):
        step(world)
    tables = set()
    for _ in range(4):
        shuffled = [world.files[i] for i in world.random.permutation(len(world.files))]
        tables.add(table_text(own_table(shuffled, divide(shuffled, table))))
    assert len(tables) == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_fifth_more_pictures_keep_the_fractions(seed: int) -> None:
    world = World(np.random.default_rng(seed))
    world.files = [world.new() for _ in range(1500)]
    files = sorted_files(world)
    table = own_table(files, divide(files, {}))
    before = shares(table)
    world.files += [world.new() for _ in range(300)]
    files = sorted_files(world)
    after = shares(own_table(files, divide(files, table)))
    for split, wanted in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
        assert before[split] == pytest.approx(wanted, abs=0.005)
        assert after[split] == pytest.approx(before[split], abs=0.02)


def shares(table: dict[str, Place]) -> dict[str, float]:
    counts = Counter(found.split for found in table.values())
    return {split: counts[split] / len(table) for split in SPLITS}
