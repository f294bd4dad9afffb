"""Activations in the store: the suffix run from them gives the whole, or they are refused."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

from autotransfer.errors import PluginContractError, StoreFullError
from autotransfer.store import Store
from autotransfer.train.activations import mixed_views, read_activations, write_activations
from autotransfer.train.cuts import Cut, check_cuts, run_from
from autotransfer.train.network import to_device

COUNT = 70  # three batches, the last of six


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path, 1 << 24)


class Stage(nn.Module):
    """Gives what a function makes of its input."""

    def __init__(self, act):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.act = act

    def forward(self, x):
        return self.act(self.conv(x))


class Net(nn.Module):
    """Two stages; the first gives whatever is wanted of it."""

    STAGES = ("one", "two")

    def __init__(self, act):
        super().__init__()
        self.one, self.two = Stage(act), nn.Identity()

    def forward(self, x):
        self.two(self.one(x))
        return x.mean((2, 3))


def kept(toys, store, act, rows=None, **options):
    """Return what is stored of such a first stage."""
    module = toys.made(Net, lambda x: x)
    stages = toys.stages_of(module)
    module.one.act = act
    write_activations(store, "key", module, stages, Cut(1, True), rows or toys.rows(COUNT), **options)
    return store.get("key")


@pytest.mark.parametrize("layout", ["plain", "channels innermost"])
@pytest.mark.parametrize("name", ["Conv", "Residual", "Tokens", "Pairs", "Shared", "StemSkip"])
def test_the_suffix_from_what_was_stored_gives_the_whole(toys, store, name, layout):
    module = toys.made(getattr(toys, name))
    if layout != "plain":
        module = module.to(memory_format=torch.channels_last)
    stages = toys.stages_of(module, "tokens" if name == "Tokens" else "vector")
    rows, order = toys.rows(COUNT), [69, 3, 3, 40, 0]
    batch = to_device(rows.batch(order), torch.device("cpu"))
    with torch.no_grad():
        whole = module(batch)
    for cut in check_cuts(module, stages, toys.rows(2).inputs)[:-1]:
        write_activations(store, f"full{cut.after}", module, stages, cut, rows, half=False)
        write_activations(store, f"half{cut.after}", module, stages, cut, rows)
        for precision, gap in (("full", 1e-5), ("half", 5e-3)):
            arrays = store.get(f"{precision}{cut.after}")
            assert arrays["a0"].dtype == (np.float16 if precision == "half" else np.float32)
            activation = read_activations(arrays, order)
            with torch.no_grad(), run_from(module, stages, cut, activation, len(order)) as suffix:
                torch.testing.assert_close(suffix(batch), whole, rtol=gap, atol=gap)
            first = activation[0] if isinstance(activation, tuple) else activation
            if layout != "plain" and name == "Conv":
                assert first.is_contiguous(memory_format=torch.channels_last)


def test_what_is_read_is_a_copy_that_may_be_written(toys, store):
    arrays = kept(toys, store, lambda x: x, half=False)
    before = arrays["a0"][:3].copy()
    read_activations(arrays, [0, 1, 2]).zero_()
    np.testing.assert_array_equal(arrays["a0"][:3], before)
    assert read_activations(arrays, []).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("index", [COUNT, -1])
def test_a_row_that_does_not_exist_is_refused(toys, store, index):
    with pytest.raises(IndexError, match=rf"{index}.* were asked for; there are {COUNT}"):
        read_activations(kept(toys, store, lambda x: x), [0, index])


def test_only_what_lies_before_the_cut_runs_and_in_eval_mode(toys, store):
    module = toys.made(toys.Conv, 0.5).train()
    stages, ran = toys.stages_of(module), []
    module.train()
    module.two.register_forward_hook(lambda *_: ran.append(1))
    before, rows = toys.tensors(module), toys.rows(COUNT)
    ticks = []
    write_activations(store, "key", module, stages, Cut(1, True), rows, tick=lambda: ticks.append(1))
    assert not ran
    assert not toys.changed(before, toys.tensors(module))
    assert len(ticks) == len(rows.asked) == 3
    assert [i for batch in rows.asked for i in batch] == list(range(COUNT))
    assert not module.one._forward_hooks


def test_nesting_plain_values_and_integers_come_back(toys, store):
    arrays = kept(toys, store, lambda x: (x, [None, (x > 0, 3, "mask")], (x[:, 0, 0, 0] * 100).long()), half=False)
    first, (nothing, inside), last = read_activations(arrays, [5, 66])
    assert (first.dtype, last.dtype, nothing) == (torch.float32, torch.int64, None)
    assert type(inside) is tuple
    assert inside[1:] == (3, "mask")
    assert torch.equal(inside[0], first > 0)
    assert torch.equal(last, (first[:, 0, 0, 0] * 100).long())


@pytest.mark.parametrize("row", [0, 69], ids=["in the first batch", "in the last batch"])
def test_an_array_too_large_for_float16_is_kept_in_float32_and_the_others_are_not(toys, store, row):
    rows = toys.rows(COUNT)
    rows.inputs[row] = 1e6
    arrays = kept(toys, store, lambda x: (x.tanh(), x), rows)
    assert (arrays["a0"].dtype, arrays["a1"].dtype) == (np.float16, np.float32)
    assert np.abs(arrays["a1"][row]).max() > 7e4
    module = toys.made(Net, lambda x: x)
    with torch.no_grad():
        torch.testing.assert_close(read_activations(arrays, range(COUNT))[1], module.one(rows.inputs))
    assert store.size() == sum(p.stat().st_size for p in store.folder.glob("key/arrays.bin"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("row", [0, 69])
def test_values_that_are_not_finite_are_refused_and_nothing_is_left(toys, store, bad, row):
    rows = toys.rows(COUNT)
    rows.inputs[row, 0, 0, 0] = bad
    with pytest.raises(PluginContractError, match="not finite"):
        kept(toys, store, lambda x: x, rows)
    assert store.get("key") is None
    assert store.size() == 0


@pytest.mark.parametrize(
    ("act", "fault"),
    [
        (lambda x: {"x": x}, "holds dict; wanted"),
        (lambda x: (x, x.mean()), r"shape \(\); wanted one row for each"),
        (lambda x: (x, x[:1]), r"shape \(1, 3, 8, 8\); wanted one row for each"),
        (lambda x: (None, 3), "gives no tensor"),
        (lambda x: x[:, :, : len(x) // 5], r"differs from batch to batch: \[\(3, 6, 8\)\].*then \[\(3, 1, 8\)\]"),
        (lambda x: (x, len(x)), "differs from batch to batch"),
    ],
)
def test_activations_of_another_kind_are_refused(toys, store, act, fault):
    with pytest.raises(PluginContractError, match=fault):
        kept(toys, store, act)
    assert store.get("key") is None
    assert store.size() == 0


def test_a_stage_that_does_not_run_is_refused(toys, store):
    class Idle(Net):
        def forward(self, x):
            return x.mean((2, 3)) if len(x) > 2 else super().forward(x)

    module = toys.made(Idle, lambda x: x)
    with pytest.raises(PluginContractError, match="'one' did not run"):
        write_activations(store, "key", module, toys.stages_of(module), Cut(1, True), toys.rows(9))


def test_a_network_that_goes_on_after_an_exception_is_refused(toys, store):
    class Deaf(Net):
        def forward(self, x):
            with contextlib.suppress(Exception):
                super().forward(x)
            return x.mean((2, 3))

    module = toys.made(Deaf, lambda x: x)
    with pytest.raises(PluginContractError, match="catches an exception raised in stage 'one'"):
        write_activations(store, "key", module, toys.stages_of(module), Cut(1, True), toys.rows(9))


def test_a_cut_that_failed_its_check_no_rows_and_a_full_store_are_refused(toys, store, tmp_path):
    module = toys.made(toys.Skip)
    stages = toys.stages_of(module)
    bad = check_cuts(module, stages, toys.rows(2).inputs)[1]
    with pytest.raises(ValueError, match="failed its check .*differs from the whole"):
        write_activations(store, "key", module, stages, bad, toys.rows(4))
    with pytest.raises(ValueError, match="is the last, which has no check"):
        write_activations(store, "key", module, stages, Cut(3, True), toys.rows(4))
    with pytest.raises(ValueError, match="no rows"):
        write_activations(store, "key", module, stages, Cut(1, True), toys.rows(0))
    with pytest.raises(StoreFullError):
        write_activations(Store(tmp_path / "small", 100), "key", module, stages, Cut(1, True), toys.rows(4))


def test_rows_of_several_views_come_back_in_their_order() -> None:
    form = np.frombuffer(b"{}", np.uint8)
    one = {"form": form, "a0": np.arange(8, dtype=np.float16).reshape(4, 2)}
    two = {"form": form, "a0": 100 + np.arange(8, dtype=np.float32).reshape(4, 2)}
    mixed = mixed_views([one, two], [3, 0, 2, 3], np.array([1, 0, 1, 0]))
    assert mixed["a0"].tolist() == [[106, 107], [0, 1], [104, 105], [6, 7]]
    assert mixed["a0"].dtype == np.float32
    assert mixed_views([one, two], [1], np.array([1]))["a0"].tolist() == [[102, 103]]
