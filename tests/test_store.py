"""The store: what is kept comes back exact or not at all, whoever writes, dies or meddles."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from autotransfer import store as store_module
from autotransfer.codec import digest
from autotransfer.errors import AutotransferError, StoreFullError
from autotransfer.store import Store
from autotransfer.store_files import DATA, MANIFEST

KB = 1024


def write(store, key, value=1.0, size=KB):
    """Keep one array of ``size`` bytes."""
    with store.put(key, {"x": ((size // 4,), np.float32)}) as arrays:
        arrays["x"][:] = value


def value(store, key):
    """Return what an entry of ``write`` holds, without holding it."""
    found = store.get(key)
    return None if found is None else float(np.unique(found["x"]).item())


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def hidden(store):
    """Return what lies in the folder beside entries and the lock."""
    return sorted(p.name for p in store.folder.iterdir() if p.name.startswith(".") and p.name != ".lock")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", 10 * KB)


def test_what_was_put_comes_back_in_another_process_too(store):
    rng = np.random.default_rng(0)
    kept = {
        "blocks.0/a b": rng.normal(size=(5, 3)).astype(np.float16),
        "ids": rng.integers(-9, 9, (7,)),
        "none": np.zeros((0, 4), np.float32),
        "scalar": np.array(2.5),
        "flags": np.array([True, False]),
        "wave": np.array([1 + 2j], np.complex64),
    }
    with store.put("key", {n: (a.shape, a.dtype) for n, a in kept.items()}) as arrays:
        assert store.get("key") is None
        for name, a in kept.items():
            assert not arrays[name].any()
            arrays[name][...] = a
    found = store.get("key")
    assert list(found) == list(kept)
    for name, a in kept.items():
        assert (found[name].dtype, found[name].shape) == (a.dtype, a.shape)
        np.testing.assert_array_equal(found[name], a)
    code = "import sys; from autotransfer.store import Store; print(Store(sys.argv[1], 0).get('key')['ids'].tolist())"
    other = subprocess.run([sys.executable, "-c", code, store.folder], capture_output=True, text=True, check=True)
    assert json.loads(other.stdout) == kept["ids"].tolist()


def test_an_entry_without_arrays_is_one(store):
    with store.put("empty", {}):
        pass
    assert store.get("empty") == {}


def test_what_is_read_cannot_be_changed(store):
    with store.put("key", {"x": ((4,), np.float32)}) as arrays:
        arrays["x"][:] = 1
    for held in (arrays["x"], store.get("key")["x"]):
        with pytest.raises(ValueError, match="read-only"):
            held[0] = 2
    with pytest.raises(ValueError, match="WRITEABLE"):
        store.get("key")["x"].flags.writeable = True


def test_keys_are_of_the_parts_and_of_nothing_else():
    key = Store.key("weights", 3, {"b": 1.5, "a": [1, 2]})
    assert key == Store.key("weights", 3, {"a": (1, 2), "b": 1.5})
    assert key != Store.key("weights", 4, {"b": 1.5, "a": [1, 2]})
    assert len(key) == 64
    assert Store.key("ab", "c") != Store.key("a", "bc")


@pytest.mark.parametrize("key", ["", "..", "a/b", ".new-x", "a.b", "x" * 201])
def test_a_key_that_is_no_plain_name_is_refused(store, key):
    for use in (lambda: store.get(key), lambda: write(store, key)):
        with pytest.raises(ValueError, match="is no key"):
            use()
    assert not store.folder.exists()


@pytest.mark.parametrize(("shape", "dtype"), [((2,), object), ((2,), "U3"), ((2,), [("a", "f4")]), ((-1,), "f4")])
def test_arrays_that_cannot_be_kept_are_refused(store, shape, dtype):
    with pytest.raises(ValueError, match=r"array 'x' has .*wanted"), store.put("key", {"x": (shape, dtype)}):
        pass


def test_a_negative_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="wanted 0 or more"):
        Store(tmp_path, -1)


class TestDamage:
    def damaged(self, store, caplog):
        """Return whether the entry is refused, named, removed, and can be built again."""
        with caplog.at_level(logging.WARNING):
            gone = store.get("key") is None and not (store.folder / "key").exists()
        write(store, "key", 5.0)
        return gone and "damaged" in caplog.text and value(store, "key") == 5.0 and not hidden(store)

    @pytest.mark.parametrize("looked", [False, True], ids=["never read", "read before"])
    @pytest.mark.parametrize("at", [0, 500, KB - 1])
    def test_a_flipped_byte(self, store, caplog, at, looked):
        write(store, "key")
        if looked:
            assert value(store, "key") == 1.0
        flip(store.folder / "key" / DATA, at)
        assert self.damaged(store, caplog)

    def test_a_byte_flipped_long_after_the_file_was_found_right(self, store, caplog, monkeypatch):
        write(store, "key")
        late = time.time_ns() + 10**9
        monkeypatch.setattr(time, "time_ns", lambda: late)
        reads = []
        monkeypatch.setattr(os, "preadv", lambda *a, real=os.preadv: reads.append(1) or real(*a))
        assert value(store, "key") == value(store, "key") == 1.0
        assert len(reads) == 2  # one piece and the end: the second opening read nothing
        assert store.get("key", verify=True) is not None
        assert len(reads) == 4
        data, before = store.folder / "key" / DATA, (store.folder / "key" / DATA).stat()
        time.sleep(0.02)  # past the step of the file system's clock
        flip(data, 9)
        os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert self.damaged(store, caplog)

    def test_a_file_written_within_one_tick_of_the_clock_is_read_again(self, store, monkeypatch):
        write(store, "key")
        soon = (store.folder / "key" / DATA).stat().st_ctime_ns + 10**6
        monkeypatch.setattr(time, "time_ns", lambda: soon)
        reads = []
        monkeypatch.setattr(os, "preadv", lambda *a, real=os.preadv: reads.append(1) or real(*a))
        assert value(store, "key") == value(store, "key") == 1.0
        assert len(reads) == 4  # a change now might leave the file's time as it is, so each opening read it all

    def test_any_byte_of_the_manifest(self, store, tmp_path):
        write(store, "key")
        shutil.copytree(store.folder / "key", tmp_path / "whole")
        for at in range((tmp_path / "whole" / MANIFEST).stat().st_size):
            shutil.rmtree(store.folder / "key", ignore_errors=True)
            shutil.copytree(tmp_path / "whole", store.folder / "key")
            flip(store.folder / "key" / MANIFEST, at)
            assert store.get("key") is None, at
        shutil.copytree(tmp_path / "whole", store.folder / "key")
        assert value(store, "key") == 1.0  # it was the byte and not the copying

    @pytest.mark.parametrize("size", [0, 1, KB - 1, KB + 1, 4 * KB])
    def test_another_length(self, store, caplog, size):
        write(store, "key")
        os.truncate(store.folder / "key" / DATA, size)
        assert self.damaged(store, caplog)
        assert f"has {size:,} bytes; wanted 1,024" in caplog.text

    @pytest.mark.parametrize("file", [DATA, MANIFEST])
    def test_a_missing_file(self, store, caplog, file):
        write(store, "key")
        (store.folder / "key" / file).unlink()
        assert self.damaged(store, caplog)

    @pytest.mark.parametrize("text", ["", "{", "null", "[]", "7", '{"manifest": {}}', "\x00" * 50, "[" * 100_000])
    def test_a_garbage_manifest(self, store, caplog, text):
        write(store, "key")
        (store.folder / "key" / MANIFEST).write_text(text)
        assert self.damaged(store, caplog)

    @pytest.mark.parametrize(
        "change",
        [
            {"format": 0},
            {"format": 2},
            {"format": "1"},
            {"format": 2, "codec": "zstd"},
            {"key": "other"},
            {"arrays": []},
            {"arrays": [{"name": "x", "shape": [8], "dtype": "<f4"}]},
            {"arrays": [{"name": "x", "shape": [-256], "dtype": "<f4"}]},
            {"arrays": [{"name": "x", "shape": [256], "dtype": "|O"}]},
            {"arrays": [{"name": "x", "shape": [256], "dtype": "?!"}]},
            {"bytes": 1 << 60},
        ],
        ids=str,
    )
    def test_a_manifest_of_another_format_or_entry_with_a_right_sum(self, store, caplog, change):
        write(store, "key")
        manifest = store.folder / "key" / MANIFEST
        body = json.loads(manifest.read_text())["manifest"] | change
        manifest.write_text(json.dumps({"manifest": body, "sha256": digest(body, 64)}))
        assert self.damaged(store, caplog)

    def test_an_entry_that_was_replaced_meanwhile_is_not_removed(self, store, monkeypatch):
        write(store, "key")
        (store.folder / "key" / MANIFEST).write_text("{")
        real = store._drop

        def late(path, inode, fault):
            os.rename(path, store.folder / "aside")
            write(store, "key", 7.0)
            real(path, inode, fault)

        monkeypatch.setattr(store, "_drop", late)
        assert store.get("key") is None
        assert value(store, "key") == 7.0


class TestRoom:
    def age(self, store, *keys):
        for at, key in enumerate(keys):
            os.utime(store.folder / key, ns=(at + 1, at + 1))

    def test_the_least_recently_used_goes_first(self, store):
        for key in "abcde":
            write(store, key, size=2 * KB)
        self.age(store, *"abcde")
        assert value(store, "a") == 1.0  # used: now the newest
        write(store, "f", size=3 * KB)
        assert [k for k in "abcdef" if store.get(k)] == ["a", "d", "e", "f"]
        assert store.size() == 9 * KB
        assert not hidden(store)

    def test_what_is_held_stays(self, store):
        for key in "abc":
            write(store, key, size=3 * KB)
        self.age(store, *"abc")
        view = store.get("a")["x"][5:9].reshape(2, 2)
        gc.collect()
        self.age(store, *"abc")
        write(store, "d", size=3 * KB)
        assert [k for k in "abcd" if store.get(k)] == ["a", "c", "d"]
        with pytest.raises(StoreFullError, match=r"10,240 bytes, of which 3,072 are in use"):
            write(store, "e", size=8 * KB)
        assert [k for k in "abcd" if store.get(k)] == ["a", "c", "d"]  # nothing was evicted in vain
        assert store.room(7 * KB)
        assert not store.room(7 * KB + 1)
        assert view.sum() == 4
        del view
        assert store.room(10 * KB)
        write(store, "e", size=8 * KB)
        assert [k for k in "abcde" if store.get(k)] == ["e"]

    def test_what_another_process_holds_stays_until_it_ends(self, store):
        write(store, "a", size=6 * KB)
        code = (
            "import sys; from autotransfer.store import Store; a = Store(sys.argv[1], 0).get('a')['x'][:1]\n"
            "print('held', flush=True); sys.stdin.read()"
        )
        other = subprocess.Popen(
            [sys.executable, "-c", code, store.folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(StoreFullError, match="in use"):
                write(store, "b", size=6 * KB)
        finally:
            other.communicate()
        write(store, "b", size=6 * KB)
        assert store.get("a") is None

    def test_what_is_being_written_counts(self, store):
        with store.put("a", {"x": ((6 * KB,), np.uint8)}):
            assert store.size() == 6 * KB
            assert not store.room(5 * KB)
            with pytest.raises(StoreFullError, match="in use"):
                write(store, "b", size=5 * KB)

    def test_more_than_the_most_never_fits(self, store):
        assert not store.room(10 * KB + 1)
        write(store, "a")
        with pytest.raises(StoreFullError, match=r"cannot take another entry: 11,264 bytes do not fit.*free some"):
            write(store, "b", size=11 * KB)
        assert value(store, "a") == 1.0
        assert issubclass(StoreFullError, AutotransferError)

    def test_room_is_asked_without_leaving_a_trace(self, store):
        assert store.room(10 * KB)
        assert not store.room(10 * KB + 1)
        assert store.size() == 0
        assert not store.folder.exists()

    def test_directories_of_others_are_left_alone(self, store):
        (store.folder / "mine").mkdir(parents=True)
        (store.folder / "mine" / "file").write_text("x" * 9 * KB)
        (store.folder / "note").write_text("x")
        for key in "abc":
            write(store, key, size=4 * KB)
        assert store.size() == 8 * KB
        assert (store.folder / "mine" / "file").exists()


@pytest.fixture
def disk(tmp_path):
    """Mount a file system of 256 KB; return its path and a way to remount it."""
    path = tmp_path / "disk"
    path.mkdir()

    def mount(*options):
        return subprocess.run(["mount", *options, path], capture_output=True, text=True)

    made = mount("-t", "tmpfs", "-o", "size=256k", "none") if os.geteuid() == 0 else None
    if made is None or made.returncode:
        pytest.skip("needs leave to mount a file system")
    yield path, mount
    gc.collect()
    subprocess.run(["umount", "-l", path], check=True)


class TestDisk:
    def test_a_full_disk_refuses_and_keeps_what_is_there(self, disk):
        store = Store(disk[0] / "store", 1 << 30)
        write(store, "a", size=64 * KB)
        held = store.get("a")["x"]
        with pytest.raises(StoreFullError, match="the disk has"):
            write(store, "b", size=512 * KB)
        assert not store.room(512 * KB)
        assert (held == 1).all()
        assert not hidden(store)

    def test_space_is_made_on_a_disk_smaller_than_the_most_size(self, disk):
        store = Store(disk[0] / "store", 1 << 30)
        for key in "abcd":
            write(store, key, size=96 * KB)
        assert [k for k in "abcd" if store.get(k)] == ["c", "d"]

    def test_a_disk_mounted_to_be_read_is_read(self, disk):
        store = Store(disk[0] / "store", 1 << 30)
        write(store, "a")
        write(store, "b")
        flip(store.folder / "b" / DATA, 3)
        assert disk[1]("-o", "remount,ro").returncode == 0
        assert value(store, "a") == 1.0
        assert store.get("b") is None
        with pytest.raises(StoreFullError, match="cannot be written: Read-only file system"):
            write(store, "c")
        assert not store.room(1)
        with pytest.raises(StoreFullError, match="Read-only"):
            write(Store(disk[0] / "new", 1 << 30), "c")

    @pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
    @pytest.mark.parametrize("call", ["posix_fallocate", "mkdir"])
    def test_a_refusal_of_the_system_leaves_nothing(self, store, monkeypatch, call, reason):
        write(store, "a")
        held = store.get("a")

        def refuse(*_args):
            raise OSError(reason, os.strerror(reason))

        monkeypatch.setattr(store_module.os, call, refuse)
        with pytest.raises(StoreFullError, match=os.strerror(reason)):
            write(store, "b")
        assert not hidden(store)
        monkeypatch.undo()
        assert (held["x"] == 1).all()
        write(store, "b")

    def test_a_disk_that_says_full_late_is_met_by_eviction(self, store, monkeypatch):
        for key in "abc":
            write(store, key)
        left, real = [2], os.posix_fallocate

        def full_twice(*args):
            if left[0]:
                left[0] -= 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(*args)

        monkeypatch.setattr(store_module.os, "posix_fallocate", full_twice)
        write(store, "d")
        assert [k for k in "abcd" if store.get(k)] == ["c", "d"]

    def test_other_faults_of_the_system_pass_as_they_are(self, store, monkeypatch):
        def fail(*_args):
            raise OSError(errno.EIO, "broken")

        monkeypatch.setattr(store_module.os, "posix_fallocate", fail)
        with pytest.raises(OSError, match="broken"):
            write(store, "a")
        assert not hidden(store)

    def test_a_file_where_the_folder_should_be(self, tmp_path):
        (tmp_path / "file").write_text("")
        for path in (tmp_path / "file", tmp_path / "file" / "inside"):
            store = Store(path, KB)
            assert store.get("a") is None
            assert not store.room(1)
            with pytest.raises(StoreFullError, match="cannot be written"):
                write(store, "a")


class TestWriters:
    def test_an_exception_in_the_block_leaves_nothing_and_passes(self, store):
        def broken():
            with store.put("key", {"x": ((4,), np.float32)}) as arrays:
                arrays["x"][:] = 1
                raise OSError(errno.ENOSPC, "mine")

        with pytest.raises(OSError, match="mine") as caught:
            broken()
        assert type(caught.value) is OSError
        assert store.get("key") is None
        assert not hidden(store)
        assert store.size() == 0

    def test_a_killed_writer_leaves_nothing_visible_and_is_swept(self, store):
        code = (
            "import os, signal, sys; from autotransfer.store import Store\n"
            "with Store(sys.argv[1], 10240).put('key', {'x': ((6000,), 'u1')}) as a:\n"
            "    a['x'][:] = 1; os.kill(os.getpid(), signal.SIGKILL)"
        )
        dead = subprocess.run([sys.executable, "-c", code, store.folder])
        assert dead.returncode == -signal.SIGKILL
        assert store.get("key") is None
        assert len(hidden(store)) == 1
        (store.folder / ".old-x").mkdir()
        assert store.room(10 * KB)
        write(store, "key", 2.0, size=6 * KB)
        assert value(store, "key") == 2.0
        assert not hidden(store)

    def test_a_living_writer_is_not_swept(self, store):
        with store.put("a", {"x": ((4,), np.float32)}) as arrays:
            write(store, "b")
            arrays["x"][:] = 3
        assert value(store, "a") == 3.0

    def test_the_first_of_two_writers_stays(self, store):
        write(store, "key", 1.0)
        held = store.get("key")["x"]
        write(store, "key", 2.0)
        assert value(store, "key") == 1.0 == held[0]
        assert not hidden(store)

    @pytest.mark.parametrize("file", [DATA, MANIFEST])
    def test_a_broken_entry_is_replaced(self, store, file):
        write(store, "key", 1.0)
        os.truncate(store.folder / "key" / file, 3)
        write(store, "key", 2.0)
        assert value(store, "key") == 2.0
        assert not hidden(store)

    def test_processes_that_write_one_key_at_once_give_no_mixture(self, store):
        big = Store(store.folder, 200 * KB)  # room for four, not for more
        code = (
            "import sys; from autotransfer.store import Store; from autotransfer.errors import StoreFullError\n"
            "store, own = Store(sys.argv[1], 200 * 1024), float(sys.argv[2])\n"
            "print('ready', flush=True); sys.stdin.read(1)\n"
            "for i in range(60):\n"
            "    key = 'k%d' % (i % 6)\n"
            "    try:\n"
            "        with store.put(key, {'x': ((12288,), 'f4')}) as a: a['x'][:6000] = own; a['x'][6000:] = own\n"
            "    except StoreFullError: continue\n"
            "    got = store.get(key); assert got is None or len(set(got['x'].tolist())) == 1; del got, a\n"
        )
        others = [
            subprocess.Popen(
                [sys.executable, "-c", code, big.folder, str(own)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for own in (1, 2)
        ]
        for other in others:
            assert other.stdout.readline() == b"ready\n"
        for other in others:
            other.stdin.write(b"x")
            other.stdin.flush()
        seen = []
        while any(other.poll() is None for other in others):
            seen += [v for i in range(6) if (v := value(big, f"k{i}")) is not None]
        for other in others:
            _, fault = other.communicate()
            assert (other.returncode, fault) == (0, b"")
        assert set(seen) <= {1.0, 2.0}
        assert seen
        assert big.size() <= 200 * KB
        assert not hidden(big)
