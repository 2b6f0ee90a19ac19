"""The memory of training: on few pictures, and what it requires."""

from __future__ import annotations

from pathlib import Path

from benchmarks.memory import SMALL, STEPS, peak, requirements, table, whole, write_pictures


def test_fine_tuning_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    """With the steps before it, which find nothing on disk yet."""
    pictures = write_pictures(tmp_path / "pictures", 40)
    found = whole(tmp_path / "home", pictures, SMALL, 32, ("finetune",))
    assert 0 < found["finetune"]["imports"] <= found["finetune"]["peak"] < 4
    found |= dict.fromkeys(STEPS, found["finetune"])
    parts = {"many": found, "small": found, "default": found}
    assert "Peak resident memory" in table({"pictures": 40, "size": 32, "pixels": 0.0, "more": 0.0, "note": ""} | parts)


def test_the_default_backbones_share_counts() -> None:
    many = {"finetune": {"peak": 2.5}}
    assert [holds for holds, _ in requirements({"many": many, "more": 1.4})] == [True]
    assert [holds for holds, _ in requirements({"many": many, "more": 1.6})] == [False]


def test_the_peak_is_in_gb() -> None:
    before = peak()
    block = b"x" * 400_000_000
    assert peak() > 0.3 and peak() >= before
    del block
