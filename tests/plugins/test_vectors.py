"""Files of word vectors of every kind, and what they give as a backbone."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotransfer.errors import UnknownNameError
from autotransfer.model import load
from autotransfer.plugin import BackboneSpec, WeightsError
from autotransfer.registry import Registry
from autotransfer.testing import check_backbone
from autotransfer_vectors.build import build
from autotransfer_vectors.files import FASTTEXT, read
from autotransfer_vectors.find import find
from autotransfer_vectors.words import Words, words

NAMES = ["the", "film", "good", "bad", "café", "Rome"]
VALUES = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


def lines() -> str:
    return "".join(f"{w} {' '.join(f'{v:.6g}' for v in row)}\n" for w, row in zip(NAMES, VALUES, strict=True))


def written(path: Path, kind: str) -> Path:
    if kind == "glove":
        path.write_text(lines(), encoding="utf-8")
    elif kind == "glove.gz":
        path = path.with_name(path.name + ".gz")
        path.write_bytes(gzip.compress(lines().encode()))
    elif kind == "word2vec":
        path.write_text(f"6 5\n{lines()}", encoding="utf-8")
    else:
        end = b"\n" if kind == "binary" else b""
        rows = [w.encode() + b" " + v.astype("<f4").tobytes() + end for w, v in zip(NAMES, VALUES, strict=True)]
        path.write_bytes(b"6 5\n" + b"".join(rows))
    return path


@pytest.mark.parametrize("kind", ["glove", "glove.gz", "word2vec", "binary", "binary without line ends"])
def test_files_of_every_kind(tmp_path: Path, kind: str) -> None:
    found = read(written(tmp_path / "vectors.txt", kind))
    assert found.words == NAMES
    np.testing.assert_allclose(found.values, VALUES, rtol=1e-5)
    assert read(written(tmp_path / "vectors.txt", kind), most=2).words == NAMES[:2]


def test_a_word_of_several_parts_and_a_word_that_stands_there_twice(tmp_path: Path) -> None:
    body = lines() + f". . . {' '.join(['1'] * 5)}\n" + f"the {' '.join(['9'] * 5)}\n"
    (tmp_path / "v.txt").write_text(body)
    found = read(tmp_path / "v.txt")
    assert found.words == [*NAMES, ". . ."]
    np.testing.assert_allclose(found.values[0], VALUES[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no word"),
        (b"hello world\nthis is no such file\n", "no file of word vectors: its line 1"),
        (lines().encode() + b"short 1 2\n", "its line 7 is no word and 5 numbers"),
        (b"6 5\nthe " + VALUES[0].tobytes()[:9], "ends inside the vector|ends, or holds no word"),
        (b"6 99999999\nthe 1 2", "99999999 wide"),
        (struct.pack("<i", FASTTEXT) + b"\x0c\x00", "fastText's own binary kind"),
        (b"a nan nan\nb 1 2\n", "not finite"),
    ],
)
def test_what_is_no_such_file_or_damaged_says_so(tmp_path: Path, body: bytes, message: str) -> None:
    (tmp_path / "v.bin").write_bytes(body)
    with pytest.raises(WeightsError, match=message):
        read(tmp_path / "v.bin")


def test_words_are_looked_up_as_they_stand_else_in_lower_case() -> None:
    made = Words([*NAMES, "don", "t"], max_length=4)
    ids, lengths = made(["The GOOD film in Rome!", "café", "nothing", "", "don't"])
    assert ids == [[1, 3, 2, 6], [5], [], [], [7, 8]]
    assert lengths == [4, 1, 0, 0, 2]
    assert made(["good " * 9])[1] == [9]
    assert len(made(["good " * 9])[0][0]) == 4


@pytest.fixture
def vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOTRANSFER_HOME", str(tmp_path / "home"))
    return written(tmp_path / "vectors.txt", "glove")


def opened(spec: BackboneSpec) -> tuple[Any, Any]:
    assert spec.weights is not None
    folder = Path(spec.weights.name)
    return build(folder, **spec.options).eval(), words(folder, max_length=8)


def test_a_text_is_the_mean_of_its_words(vectors: Path) -> None:
    spec = find(str(vectors), {})
    assert spec is not None
    module, tokens = opened(spec)
    ids, _ = tokens(["the good film"])
    got = module(torch.tensor(ids), torch.ones(1, 3, dtype=torch.long))[0]
    torch.testing.assert_close(got, torch.from_numpy(VALUES[[0, 2, 1]].mean(0)), rtol=1e-4, atol=1e-5)
    nothing = module(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.long))
    assert not nothing.any()


def test_a_file_is_converted_once_and_again_when_it_changes(vectors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = find(str(vectors), {}), find(str(vectors), {})
    assert one is not None
    assert one == two
    fewer = find(str(vectors), {"most": 3})
    assert fewer is not None
    assert fewer.options == {"words": 3, "width": 5}
    vectors.write_text(lines().replace("film", "movie"))
    changed = find(str(vectors), {})
    assert changed is not None
    assert changed.weights != one.weights
    with pytest.raises(WeightsError, match="no options lower"):
        find(str(vectors), {"lower": True})


def test_a_file_passes_the_kit_and_a_missing_one_is_unknown(vectors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "vectors=autotransfer_vectors")
    registry = Registry.discover()
    assert [str(f) for f in check_backbone(registry.backbone(f"vectors/{vectors}"), registry)] == []
    with pytest.raises(UnknownNameError):
        registry.backbone("vectors/nowhere.txt")


def test_a_saved_model_outlives_the_file(vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import autotransfer

    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies,vectors=autotransfer_vectors")
    rows = [f"the {('good', 'bad')[i % 2]} film {'the ' * (i % 5)}{i}" for i in range(60)]
    model = autotransfer.fit(
        (rows, ["yes", "no"] * 30), backbones=f"vectors/{vectors}", trials=2, executor="serial", out=tmp_path / "run"
    )
    assert model.score((rows, ["yes", "no"] * 30))["accuracy"] > 0.9
    wanted = model.predict_proba(rows)
    vectors.unlink()
    monkeypatch.setenv("AUTOTRANSFER_HOME", str(tmp_path / "other"))
    assert np.allclose(load(tmp_path / "run").predict_proba(rows), wanted, atol=1e-6)
