"""Data by URL, read in place through fsspec; and rows whose files were copied elsewhere."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from autotransfer import engine
from autotransfer.config import Settings
from autotransfer.data import prepare
from autotransfer.data.moved import files, moved, place
from autotransfer.data.readers import read, remote
from autotransfer.errors import DataError


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory, stripes: Any) -> Path:
    """Class folders of the stripes, and tables of them."""
    root = tmp_path_factory.mktemp("pets") / "pets"
    rows = []
    for number, (image, label) in enumerate(zip(*stripes, strict=True)):
        (root / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / label / f"{number:03}.png")
        rows.append((f"{label}/{number:03}.png", label))
    frame = pd.DataFrame(rows, columns=["image", "label"])
    frame.to_csv(root / "table.csv", index=False)
    frame.to_parquet(root / "table.parquet")
    return root


@pytest.fixture
def memory(pets: Path) -> Iterator[str]:
    """The same in fsspec's file system in memory."""
    store = fsspec.filesystem("memory")
    store.put(str(pets), "/bucket/pets", recursive=True)
    yield "memory://bucket/pets"
    store.rm("/bucket", recursive=True)


def test_folders_by_url_are_the_same_data(pets: Path, memory: str) -> None:
    near, far = prepare(pets).profile, prepare(f"{memory}/").profile
    assert far.fingerprint == near.fingerprint
    assert far.name == f"{memory}/"
    assert (far.counts, far.facts, far.test) == (near.counts, near.facts, near.test)
    assert "2 files that are no images in class folders were left aside" in [i.text for i in far.issues]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_by_url_have_their_paths_beside_them(pets: Path, memory: str, kind: str) -> None:
    near = prepare(pets / f"table.{kind}", target="label")
    far = prepare(f"{memory}/table.{kind}", target="label")
    assert far.profile.fingerprint == near.profile.fingerprint
    assert far.dataset.row_name(0) == near.dataset.row_name(0)
    assert np.array_equal(far.dataset.load(3), near.dataset.load(3))


def test_given_splits_are_followed_by_url(pets: Path) -> None:
    store = fsspec.filesystem("memory")
    for split in ("train", "val", "test"):
        store.put(str(pets / "row"), f"/split/{split}/row", recursive=True)
        store.put(str(pets / "none"), f"/split/{split}/none", recursive=True)
    found: Any = read("memory://split")
    assert {s: found.splits.count(s) for s in set(found.splits)} == {"train": 100, "validation": 100, "test": 100}
    assert set(found.targets["class"]) == {"row", "none"}
    store.rm("/split", recursive=True)


def test_texts_in_a_parquet_table_by_url() -> None:
    frame = pd.DataFrame({"text": [f"a text of some words {i}" for i in range(20)], "label": list("ab") * 10})
    with fsspec.open("memory://texts.parquet", "wb") as file:
        frame.to_parquet(file)
    data = prepare("memory://texts.parquet")
    assert (data.profile.modality, data.profile.rows) == ("text", 20)
    assert data.dataset.load(3) == "a text of some words 3"


def test_nothing_is_read_before_it_is_asked_for(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    store = type(fsspec.filesystem("memory"))
    own = store.cat_file
    monkeypatch.setattr(store, "cat_file", lambda self, path, **more: asked.append(path) or own(self, path, **more))
    found: Any = read(memory)
    names = [found.row_name(i) for i in range(len(found))]
    assert found.path(0) is None
    assert asked == []
    found.load(7)
    assert [Path(p).name for p in asked] == [Path(names[7]).name]


def test_a_file_url_is_a_path(pets: Path) -> None:
    assert prepare(pets.as_uri()).profile == prepare(str(pets)).profile
    assert prepare(f"{pets.as_uri()}/table.parquet").profile.rows == 150


def test_wrong_urls_say_what_is_wrong(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no file system is known for nope://"):
        read("nope://bucket/pets")
    with pytest.raises(DataError, match=r"memory://bucket/dogs does not exist, or holds no files"):
        read("memory://bucket/dogs")
    with pytest.raises(DataError, match="one file and no table"):
        read(f"{memory}/row/000.png")
    with pytest.raises(DataError, match="did you mean label"):
        prepare(f"{memory}/table.csv", target="lable")
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as where it is not installed
    monkeypatch.setattr(sys.modules["fsspec.registry"], "_registry", {})
    with pytest.raises(DataError, match=r"s3://bucket/pets needs .*: pip install 'autotransfer\[s3\]'"):
        read("s3://bucket/pets")


def test_a_file_that_goes_away_is_that_rows_fault(memory: str) -> None:
    found: Any = read(memory)
    fsspec.filesystem("memory").rm("/bucket/pets/" + found.row_name(5))
    with pytest.raises(DataError, match=r"\d+\.png cannot be read: FileNotFoundError"):
        found.load(5)


def test_a_fit_and_its_model_take_urls(memory: str, toynet: str, monkeypatch: pytest.MonkeyPatch, pets: Path) -> None:
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")
    given: dict[str, Any] = {"plugins": [toynet], "backbones": "toynet/small", "trials": 1, "executor": "serial"}
    model = engine.fit(Settings(data=memory, **given))
    near = engine.fit(Settings(data=str(pets), **given))
    assert model.run.test == near.run.test
    assert list(model.predict(f"{memory}/row")) == list(near.predict(pets / "row"))
    assert model.predict_rows(f"{memory}/row/000.png")[0]["row"] == "000.png"


@pytest.fixture(scope="module")
def s3(pets: Path) -> Iterator[str]:
    """The same in an S3 of its own on this machine; gives its address."""
    pytest.importorskip("moto.server", exc_type=ImportError)
    pytest.importorskip("s3fs", exc_type=ImportError)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as server:
        try:
            began = time.monotonic()
            while time.monotonic() - began < 60:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert server.poll() is None
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


_FIT = """
import os, sys, fsspec, autotransfer
from autotransfer.data import prepare
store = fsspec.filesystem("s3")
store.mkdir("pets")
store.put(sys.argv[1], "pets/all", recursive=True)
far, near = prepare("s3://pets/all/").profile, prepare(sys.argv[1]).profile
assert far.fingerprint == near.fingerprint
assert prepare("s3://pets/all/table.parquet", target="label").profile.rows == 150
model = autotransfer.fit("s3://pets/all/", plugins=[sys.argv[2]], backbones="toynet/small", trials=1)
assert not [t.reason for t in model.run.trials if t.status == "failed"], model.run.trials
assert {t.worker[:3] for t in model.run.trials} == {"pid"}
print(model.run.profile.rows, len(model.predict("s3://pets/all/row")))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_workers_read_from_an_s3_with_an_endpoint_of_its_own(s3: str, pets: Path, toynet: str) -> None:
    root = Path(__file__).parents[2]
    own = {"FSSPEC_S3_ENDPOINT_URL": s3, "FSSPEC_S3_KEY": "key", "FSSPEC_S3_SECRET": "secret"}
    own |= {"PYTHONPATH": f"{root}:{root / 'plugins'}", "AUTOTRANSFER_PLUGINS": "core=autotransfer_strategies"}
    kept = {n: v for n, v in os.environ.items() if n != "AUTOTRANSFER_PLUGINS"}
    done = subprocess.run(
        [sys.executable, "-c", _FIT, str(pets), toynet],
        env={**kept, **own},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["150", "50"]


def test_rows_whose_files_were_copied_keep_their_names(pets: Path, tmp_path: Path) -> None:
    near = prepare(pets)
    found = list(files(near))
    assert len(found) == 150
    for path in found:
        copy = place(path, tmp_path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    far = pickle.loads(pickle.dumps(moved(near, tmp_path)))
    assert [far.dataset.row_name(i) for i in range(150)] == [near.dataset.row_name(i) for i in range(150)]
    assert far.dataset.path(3) == place(near.dataset.path(3), tmp_path)
    place(near.dataset.path(3), tmp_path).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        far.dataset.load(3)
    assert np.array_equal(far.dataset.load(4), near.dataset.load(4))
    assert far.profile == near.profile


def test_rows_in_memory_are_no_files(stripes: Any, tmp_path: Path) -> None:
    near = prepare(stripes)
    assert list(files(near)) == []
    assert np.array_equal(moved(near, tmp_path).dataset.load(2), near.dataset.load(2))
    assert list(files(replace(near, dataset=moved(near, tmp_path).dataset))) == []


def test_what_is_a_url() -> None:
    assert [remote.is_url(s) for s in ("s3://b/x", "memory://x", "a/b", "c:/x", 3, "see http: //x")] == [
        True,
        True,
        *[False] * 4,
    ]
