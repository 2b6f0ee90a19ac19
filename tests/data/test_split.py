"""The split table: cut once by rank at the fractions; then old pictures never move and no unit is torn apart."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving.errors import BadInput
from tasks.data.source import SPLITS
from tasks.data.spec import DataSpec
from tasks.data.split import BRIDGE, Picture, Place, place, rank, read_table, table_text, unit_name, write_table

SPEC = DataSpec(root=Path("unused"), train=0.6, validation=0.15, test=0.25)
Table = dict[str, Place]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def singles(label: str, count: int, start: int = 0) -> list[Picture]:
    """Pictures that are their own units; `unit` is set by `numbered`."""
    return [Picture(digest(f"{label}{i}"), label, -1, None, None) for i in range(start, start + count)]


def numbered(pictures: Sequence[Picture]) -> list[Picture]:
    """Units as `units.components` numbers them, from equal digests and groups alone."""
    first: dict[str, int] = {}
    keys = [p.group or p.digest for p in pictures]
    return [replace(p, unit=first.setdefault(key, i)) for i, (p, key) in enumerate(zip(pictures, keys, strict=True))]


def added(table: Table, pictures: Sequence[Picture], places: Sequence[Place]) -> Table:
    """The table after a run, as `prepare` extends it: bridges are not in it."""
    new = {p.digest: found for p, found in zip(pictures, places, strict=True) if found.split != BRIDGE}
    return {**table, **new}


# --- the first time ---------------------------------------------------------------------------------


def test_each_class_is_cut_at_the_fractions_in_the_order_of_rank() -> None:
    pictures = numbered([*singles("good", 100), *singles("bad", 20)])
    places = place(pictures, {}, SPEC)
    for label, sizes in (("good", (25, 15, 60)), ("bad", (5, 3, 12))):
        mine = [
            (rank(SPEC.seed, found.unit), found.split)
            for p, found in zip(pictures, places, strict=True)
            if p.label == label
        ]
        in_order = [split for _, split in sorted(mine)]
        test, validation, train = sizes
        assert in_order == ["test"] * test + ["validation"] * validation + ["train"] * train


def test_rank_is_the_sha256_of_seed_and_unit() -> None:
    assert rank(3, "abc") == hashlib.sha256(b"3:abc").hexdigest()


def test_another_seed_draws_another_split_of_the_same_sizes() -> None:
    pictures = numbered([*singles("good", 100), *singles("bad", 20)])
    one, other = (place(pictures, {}, SPEC.model_copy(update={"seed": seed})) for seed in (0, 1))
    assert one != other
    assert Counter(p.split for p in one) == Counter(p.split for p in other)


def test_the_order_of_the_pictures_does_not_matter() -> None:
    pictures = numbered([*singles("good", 30), *singles("bad", 20)])
    turned = pictures[::-1]
    assert place(turned, {}, SPEC)[::-1] == place(pictures, {}, SPEC)


@pytest.mark.parametrize("count", [3, 4, 5])
@pytest.mark.parametrize("shares", [(0.70, 0.15, 0.15), (0.98, 0.01, 0.01), (0.01, 0.01, 0.98), (0.01, 0.98, 0.01)])
def test_even_the_rarest_class_is_in_each_split(count: int, shares: tuple[float, float, float]) -> None:
    spec = DataSpec(root=Path("unused"), train=shares[0], validation=shares[1], test=shares[2])
    pictures = numbered([*singles("good", 100), *singles("rare", count)])
    places = place(pictures, {}, spec)
    rare = {found.split for p, found in zip(pictures, places, strict=True) if p.label == "rare"}
    assert rare == set(SPLITS)


@pytest.mark.parametrize("count", [1, 2])
def test_a_class_with_too_few_pictures_for_three_splits(count: int) -> None:
    with pytest.raises(BadInput, match=rf"at least 3 separate pictures .* found {count} of 'rare': add pictures"):
        place(numbered([*singles("good", 100), *singles("rare", count)]), {}, SPEC)


def test_a_class_whose_pictures_are_all_one_group() -> None:
    one_group = [replace(p, group="only") for p in singles("rare", 50)]
    with pytest.raises(BadInput, match="found 1 of 'rare': .* alike count as one; .* set data.near_duplicates=false"):
        place(numbered([*singles("good", 100), *one_group]), {}, SPEC)


def test_a_class_that_is_a_minority_of_every_unit_must_still_be_in_each_split() -> None:
    """Units are cut by their commonest class; the rarer one may end up in one split only."""
    groups = [
        replace(p, group=f"g{i}") for i in range(12) for p in (singles("good", 2, 2 * i) + singles("spot", i == 0, i))
    ]
    with pytest.raises(BadInput, match="'spot' in "):
        place(numbered(groups), {}, SPEC)


def test_groups_are_never_torn() -> None:
    pictures = numbered(
        [replace(p, group=f"g{i % 30}") for i, p in enumerate(singles("good", 90) + singles("bad", 90))]
    )
    places = place(pictures, {}, SPEC)
    splits: dict[str | None, set[str]] = defaultdict(set)
    for picture, found in zip(pictures, places, strict=True):
        splits[picture.group].add(found.split)
    assert all(len(found) == 1 for found in splits.values())
    assert len({found.unit for found in places}) == 30


# --- names ------------------------------------------------------------------------------------------


def test_a_units_name_does_not_show_the_groups_name() -> None:
    picture = Picture(digest("x"), "good", 0, "patient-Meier-1971", None)
    name = unit_name([picture])
    assert len(name) == 16
    assert int(name, 16) >= 0
    assert "Meier" not in table_text({picture.digest: Place(name, "train")})


def test_a_units_name_is_that_of_its_first_group_else_of_its_first_digest() -> None:
    a, b = Picture(digest("a"), "x", 0, None, None), Picture(digest("b"), "x", 0, None, None)
    assert unit_name([a, b]) == unit_name([b, a])
    with_group = replace(b, group="g")
    assert unit_name([a, with_group]) == unit_name([replace(a, group="g")]) != unit_name([a])


def test_a_group_taken_from_a_file_name_that_is_not_utf_8_has_a_name() -> None:
    assert len(unit_name([Picture(digest("a"), "x", 0, "p\udce4", None)])) == 16


# --- afterwards the table is authoritative -----------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_adding_pictures_never_moves_old_ones(seed: int) -> None:
    """Random additions in several runs: of groups and of single pictures, with removals in between."""
    random = np.random.default_rng(seed)
    pool = [*singles("good", 300), *singles("bad", 120)]
    pool = [replace(p, group=f"g{random.integers(40)}") if random.random() < 0.4 else p for p in pool]
    order = random.permutation(len(pool))
    table: Table = {}
    groups: dict[str, str] = {}
    for size in (150, 220, 330, 420):
        present = [pool[i] for i in order[:size] if size == 150 or random.random() < 0.9]
        pictures = numbered(present)
        places = place(pictures, table, SPEC)
        for picture, found in zip(pictures, places, strict=True):
            assert found.split in SPLITS, "groups alone can make no bridge"
            assert table.get(picture.digest, found) == found, "an old picture moved"
            if picture.group:
                assert groups.setdefault(picture.group, found.split) == found.split, "a group was torn"
        table = added(table, pictures, places)


def test_the_same_pictures_again_have_the_same_places() -> None:
    pictures = numbered([*singles("good", 50), *singles("bad", 20)])
    places = place(pictures, {}, SPEC)
    table = added({}, pictures, places)
    assert place(pictures, table, SPEC) == places
    other = DataSpec(root=Path("unused"), train=0.2, validation=0.4, test=0.4, seed=9)
    assert place(pictures, table, other) == places, "fractions and seed no longer matter"


def test_new_units_are_placed_by_their_rank_near_the_fractions() -> None:
    old = numbered([*singles("good", 50), *singles("bad", 50)])
    table = added({}, old, place(old, {}, SPEC))
    both = numbered([*old, *singles("good", 4000, 50)])
    new = place(both, table, SPEC)[len(old) :]
    for found in new[:200]:
        position = int(rank(SPEC.seed, found.unit), 16) / 2**256
        expected = "test" if position < 0.25 else "validation" if position < 0.40 else "train"
        assert found.split == expected
    shares = Counter(found.split for found in new)
    # 4000 draws: four standard deviations are 0.03
    assert shares["test"] / 4000 == pytest.approx(0.25, abs=0.03)
    assert shares["validation"] / 4000 == pytest.approx(0.15, abs=0.03)


@pytest.mark.parametrize("split", SPLITS)
def test_a_new_picture_of_an_old_unit_takes_its_split(split: str) -> None:
    old = numbered([*singles("good", 20), *singles("bad", 20)])
    places = place(old, {}, SPEC)
    table = added({}, old, places)
    at = next(i for i, found in enumerate(places) if found.split == split)
    near = Picture(digest("new"), old[at].label, old[at].unit, None, None)
    assert place([*old, near], table, SPEC)[-1] == places[at]


def test_a_new_picture_of_a_group_takes_its_split_though_the_groups_old_pictures_are_gone() -> None:
    """Else a patient whose pictures trained the champion would come back to judge it."""
    old = numbered([replace(p, group=f"g{i % 40}") for i, p in enumerate(singles("good", 80) + singles("bad", 80))])
    places = place(old, {}, SPEC)
    table = added({}, old, places)
    by_group = {p.group: found for p, found in zip(old, places, strict=True)}
    new = numbered(
        [replace(p, group=f"g{i}") for label in ("good", "bad") for i, p in enumerate(singles(label, 40, 500))]
    )
    assert place(new, table, SPEC) == [by_group[p.group] for p in new]


@pytest.mark.parametrize("number", range(8))
def test_a_group_keeps_its_split_though_a_copy_gave_its_unit_another_groups_name(number: int, tmp_path: Path) -> None:
    others = numbered([*singles("good", 20), *singles("bad", 20)])
    pair = [replace(p, group=f"{number}g{i}", unit=40) for i, p in enumerate(singles("good", 2, 100))]
    places = place([*others, *pair], {}, SPEC)
    assert places[-1].unit == places[-2].unit
    write_table(tmp_path / "split.csv", added({}, [*others, *pair], places))
    table = read_table(tmp_path / "split.csv")
    later = [replace(p, group=f"{number}g{i}", unit=40 + i) for i, p in enumerate(singles("good", 2, 200))]
    assert [found.split for found in place([*others, *later], table, SPEC)[40:]] == [places[-1].split] * 2
    assert place([*others, *pair], table, SPEC) == places


def _two_splits() -> tuple[list[Picture], list[Place], Table, int, int]:
    """Old pictures, their places, their table, and the positions of one in train and one in test."""
    old = numbered([*singles("good", 20), *singles("bad", 20)])
    places = place(old, {}, SPEC)
    train = next(i for i, found in enumerate(places) if found.split == "train")
    test = next(i for i, found in enumerate(places) if found.split == "test")
    return old, places, added({}, old, places), train, test


def test_a_new_picture_near_two_units_of_different_splits_is_a_bridge() -> None:
    old, places, table, train, test = _two_splits()
    first = min(train, test)
    joined = [replace(p, unit=first) if i in (train, test) else p for i, p in enumerate(old)]
    new = Picture(digest("between"), "good", first, None, None)
    found = place([*joined, new], table, SPEC)
    assert found[-1].split == BRIDGE
    assert found[:-1] == places, "the old ones stay where they are"


def test_a_new_picture_near_two_groups_of_different_splits_is_a_bridge_and_no_error() -> None:
    """One copied picture must not stop every retrain of a user who has groups."""
    old = numbered([replace(p, group=f"g{i % 40}") for i, p in enumerate(singles("good", 80) + singles("bad", 80))])
    places = place(old, {}, SPEC)
    table = added({}, old, places)
    train = next(p.unit for p, found in zip(old, places, strict=True) if found.split == "train")
    test = next(p.unit for p, found in zip(old, places, strict=True) if found.split == "test")
    joined = [replace(p, unit=min(train, test)) if p.unit in (train, test) else p for p in old]
    found = place([*joined, Picture(digest("between"), "good", min(train, test), "new group", None)], table, SPEC)
    assert found[-1].split == BRIDGE
    assert found[:-1] == places


def test_a_group_named_later_that_earlier_runs_divided_is_refused() -> None:
    old, _, table, train, test = _two_splits()
    pictures = numbered([replace(p, group="late") if i in (train, test) else p for i, p in enumerate(old)])
    with pytest.raises(BadInput, match="a group that earlier runs of this name divided .*: choose another name"):
        place(pictures, table, SPEC)


def test_groups_named_later_within_a_split_become_the_units() -> None:
    """Else intervals would count the pictures of one group as independent."""
    old, places, table, train, _ = _two_splits()
    other = next(i for i, found in enumerate(places) if found.split == "train" and i != train)
    new = replace(singles("good", 1, 900)[0], group="late")
    pictures = numbered([*(replace(p, group="late") if i in (train, other) else p for i, p in enumerate(old)), new])
    found = place(pictures, table, SPEC)
    assert found[train] == found[other] == found[-1] == Place(unit_name([new]), "train")
    assert [f for i, f in enumerate(found[:-1]) if i not in (train, other)] == [
        f for i, f in enumerate(places) if i not in (train, other)
    ]


def test_a_new_picture_near_two_units_of_the_same_split_joins_one_of_them() -> None:
    old, places, table, train, _ = _two_splits()
    other = next(i for i, found in enumerate(places) if found.split == "train" and i != train)
    joined = [replace(p, unit=train) if i == other else p for i, p in enumerate(old)]
    found = place([*joined, Picture(digest("between"), "good", train, None, None)], table, SPEC)
    assert found[-1] in (places[train], places[other])


# --- splits given by the user ------------------------------------------------------------------------


def _given() -> list[Picture]:
    return numbered(
        [replace(p, given=SPLITS[i % 3]) for label in ("good", "bad") for i, p in enumerate(singles(label, 9))]
    )


def test_given_splits_are_kept() -> None:
    pictures = _given()
    places = place(pictures, {}, SPEC)
    assert [found.split for found in places] == [p.given for p in pictures]
    table = added({}, pictures, places)
    new = replace(singles("good", 1, 50)[0], given="test")
    assert place(numbered([*pictures, new]), table, SPEC)[-1].split == "test"


def test_the_same_picture_given_in_two_splits() -> None:
    pictures = _given()
    copy = replace(pictures[0], given="test")
    assert pictures[0].given == "train"
    with pytest.raises(BadInput, match="found 1 that stand in two"):
        place(numbered([*pictures, copy]), {}, SPEC)


def test_a_group_given_in_two_splits() -> None:
    pictures = [replace(p, group="g") if i in (0, 1) else p for i, p in enumerate(_given())]
    with pytest.raises(BadInput, match="each group in one split only, found 1"):
        place(numbered(pictures), {}, SPEC)


def test_a_given_split_against_an_earlier_runs() -> None:
    pictures = _given()
    table = added({}, pictures, place(pictures, {}, SPEC))
    moved = [replace(pictures[0], given="test"), *pictures[1:]]
    with pytest.raises(BadInput, match="an earlier run of this name used otherwise"):
        place(moved, table, SPEC)


def test_a_split_for_some_pictures_only() -> None:
    pictures = [*_given(), *numbered(singles("good", 1, 50))]
    with pytest.raises(BadInput, match="a split for every picture or for none"):
        place(pictures, {}, SPEC)


def test_lookalikes_given_in_two_splits() -> None:
    pictures = [replace(p, unit=0) if i in (0, 1) else p for i, p in enumerate(_given())]
    with pytest.raises(BadInput, match="look the same in one split only, found 1 sets"):
        place(pictures, {}, SPEC)


def test_given_splits_must_hold_every_class() -> None:
    pictures = [p for p in _given() if not (p.label == "bad" and p.given == "test")]
    with pytest.raises(BadInput, match="found none of 'bad' in test: add some"):
        place(numbered(pictures), {}, SPEC)


# --- the file ---------------------------------------------------------------------------------------


def test_the_table_survives_its_file(tmp_path: Path) -> None:
    pictures = numbered([*singles("good", 50), *singles("bad", 20)])
    table = added({}, pictures, place(pictures, {}, SPEC))
    path = tmp_path / "names" / "split.csv"
    assert read_table(path) == {}
    write_table(path, table)
    assert read_table(path) == table
    assert table_text(read_table(path)) == path.read_text(), "equal tables are equal bytes"
    backwards = dict(reversed(table.items()))
    assert table_text(backwards) == table_text(table)
