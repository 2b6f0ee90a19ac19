"""Findings about pictures that are one picture: across splits, under two labels, or merely twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.audit.copies import SAME, SURE, Copy
from tasks.audit.findings import Finding, Suspect, counted, of_pictures
from tasks.data.facts import Facts

_MANY = 0.05  # of the training pictures: leaving out more of them is worth a look
_RANK = {"train": 0, "validation": 1, "test": 2}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows that are one picture; the second is the one to leave out. `exact`: the same bytes."""

    rows: tuple[int, int]
    score: float
    exact: bool


def pairs_of(facts: Facts, splits: Sequence[str], copies: Sequence[Copy]) -> tuple[Pair, ...]:
    """Exact and near duplicates as pairs, the surest first; the row of the split that is judged comes first."""
    first: dict[str, int] = {}
    exact = [(first.setdefault(digest, row), row) for row, digest in enumerate(facts.digests)]
    near = [copy for copy in copies if facts.digests[copy.first] != facts.digests[copy.second]]

    def ordered(i: int, j: int) -> tuple[int, int]:
        return (i, j) if _RANK[splits[i]] >= _RANK[splits[j]] else (j, i)

    found = [Pair(ordered(i, j), 1.0, exact=True) for i, j in exact if i != j]
    found += [Pair(ordered(c.first, c.second), 1 - 0.5 * c.difference / SAME, exact=False) for c in near]
    return tuple(found)


def rows_to_leave_out(pairs: Sequence[Pair], splits: Sequence[str]) -> tuple[int, ...]:
    """Training rows that are copies of a validation or test row, and validation rows that are copies of a test row.

    Copies of copies count: of all rows that hang together, those of the split that judges stay.
    """
    looks, highest = _looks(pairs, len(splits)), dict[int, int]()
    for look, split in zip(looks, splits, strict=True):
        highest[look] = max(highest.get(look, 0), _RANK[split])
    return tuple(row for row, split in enumerate(splits) if _RANK[split] < highest[looks[row]])


def same_pictures(
    pairs: Sequence[Pair], facts: Facts, splits: Sequence[str], given: bool, left_out: Sequence[int]
) -> Iterator[Finding]:
    """`given`: the user divided the pictures. `left_out`: the rows that are repaired where Thaw did."""
    across = [pair for pair in pairs if splits[pair.rows[0]] != splits[pair.rows[1]]]
    torn = [pair for pair in pairs if facts.labels[pair.rows[0]] != facts.labels[pair.rows[1]]]
    labels = _of_two_labels(across, facts)
    certain = [pair for pair in torn if pair.exact or pair.score >= 1 - 0.5 * SURE / SAME]
    if across and given:
        yield Finding(
            "leakage",
            "WARN",
            f"expected each picture in one split, found {_of(across)} in two of those you gave{labels}: what judges "
            "was learnt from; drop one of each pair, or move both into one split",
            _suspects(across, "drop"),
        )
    if certain:
        yield Finding(
            "conflict",
            "WARN",
            f"expected one label for one picture, found {_of(certain)} under two: relabel or drop what is wrong",
            _suspects(certain, "keep"),
        )
    if left_out:
        yield _left_out(across, splits, left_out, labels)
    elif across and not given:
        yield Finding(
            "leakage",
            "WARN",
            f"expected each picture in one split, found {_of(across)} in two{labels}: set audit.drop_copies=true",
            _suspects(across, "drop"),
        )
    told = {*across, *certain}
    rest = [pair for pair in pairs if pair not in told]
    exact, near = [pair for pair in rest if pair.exact], [pair for pair in rest if not pair.exact]
    if exact:
        judged = _of_what_judges(exact, splits)
        text = f"{_of(exact)} stand here twice, byte by byte, and are kept in one split: they count twice, drop one"
        yield Finding("duplicate", "WARN" if judged else "INFO", text + judged, _suspects(exact, "keep"))
    if near:
        labels, judged = _of_two_labels(near, facts), _of_what_judges(near, splits)
        text = f"{_of(near)} look like one picture changed a little, and are in one split{labels}{judged}"
        yield Finding("near_duplicate", "WARN" if labels or judged else "INFO", text, _suspects(near, "keep"))


def lost_classes(facts: Facts, splits: Sequence[str], left_out: Sequence[int]) -> tuple[tuple[int, str], ...]:
    """Class and split of which nothing would be left without those rows."""
    gone = set(left_out)
    there = {(int(facts.labels[row]), split) for row, split in enumerate(splits) if row not in gone}
    return tuple(sorted({(int(facts.labels[row]), splits[row]) for row in left_out} - there))


def _left_out(across: Sequence[Pair], splits: Sequence[str], left_out: Sequence[int], labels: str) -> Finding:
    share = sum(splits[row] == "train" for row in left_out) / max(1, splits.count("train"))
    many = f", {share:.0%} of the training pictures" if share > _MANY else ""
    pairs = f" ({_of(across)}{labels})" if labels else ""
    text = f"{of_pictures(len(left_out))} left out of training or validation{many}: copies of pictures that judge"
    return Finding("left_out", "WARN" if labels or many else "INFO", text + pairs, _suspects(across, "keep"))


def _looks(pairs: Sequence[Pair], count: int) -> list[int]:
    """For each of `count` rows the first of those that hang together with it."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for pair in pairs:
        low, high = sorted((root(pair.rows[0]), root(pair.rows[1])))
        parent[high] = low
    return [root(row) for row in range(count)]


def _of_what_judges(pairs: Sequence[Pair], splits: Sequence[str]) -> str:
    """To go on with, or empty: every figure's interval counts such pictures as if each were another."""
    looks, said = _looks(pairs, len(splits)), []
    for split in ("validation", "test"):
        rows = {row for pair in pairs for row in pair.rows if splits[row] == split}
        if rows:
            said.append(f"{of_pictures(len(rows))} of {split} have {counted(len({looks[r] for r in rows}), 'look')}")
    return f"; {', '.join(said)}: intervals count the pictures, unless data.group_by names groups" if said else ""


def _of_two_labels(pairs: Sequence[Pair], facts: Facts) -> str:
    """To go on with, or empty."""
    torn = sum(int(facts.labels[pair.rows[0]] != facts.labels[pair.rows[1]]) for pair in pairs)
    return f"; {torn:,} of them {'has' if torn == 1 else 'have'} two labels, look there" if torn else ""


def _of(pairs: Sequence[Pair]) -> str:
    return f"{counted(len(pairs), 'pair')} of pictures"


def _suspects(pairs: Sequence[Pair], action: str) -> tuple[Suspect, ...]:
    return tuple(Suspect(pair.rows, round(pair.score, 4), "drop" if action == "drop" else "keep") for pair in pairs)
