"""Which rows are held out where they come in groups."""

from __future__ import annotations

from autotransfer.data.split import split_rows


def test_a_group_that_is_large_for_a_part_is_held_out_only_where_smaller_ones_do_not_suffice() -> None:
    sizes = {"huge": 40, **{f"small{i}": 6 for i in range(10)}}
    units = [g for g, n in sizes.items() for _ in range(n)]
    strata = [str(i % 2) for i in range(len(units))]
    for seed in range(20):
        split = split_rows(range(len(units)), strata, units, None, seed)
        for part in (split.validation, split.test):
            held = {units[i] for i in part}
            assert "huge" not in held
            assert len(held) >= 2


def test_where_all_groups_are_large_one_is_still_held_out() -> None:
    units = ["a"] * 40 + ["b"] * 40 + ["c"] * 40
    split = split_rows(range(120), [""] * 120, units, None, 0)
    assert [len({units[i] for i in part}) for part in (split.train, split.validation, split.test)] == [1, 1, 1]
