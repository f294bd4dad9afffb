"""Texts from files, tables and memory: found, decoded, measured, tokenised; and what is said of odd ones."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from autotransfer.data import Prepared, prepare
from autotransfer.data.items import as_items
from autotransfer.data.languages import guess_language
from autotransfer.data.modalities import modality
from autotransfer.data.text import as_text, decode, words_of
from autotransfer.data.tokens import Tokens
from autotransfer.errors import DataError
from autotransfer.spec import TextInput

GOOD, BAD = "a lovely film that all of us would like to see again", "a dull film that none of us could sit through"
IDS = TextInput(tokenizer="toy:tokenizer", max_length=8)


def texts(rows: int = 20) -> list[str]:
    return [f"{(GOOD, BAD)[i % 2]}, number {i}" for i in range(rows)]


def frame(rows: int = 20, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"text": texts(rows), "label": ["good", "bad"] * (rows // 2), **columns})


def issue(data: Prepared, what: str) -> Any:
    return next(i for i in data.profile.issues if i.what == what)


def notes(data: Prepared) -> str:
    return " ".join(i.text for i in data.profile.issues if i.what == "note")


class Letters:
    """A tokenizer of single letters, with a first token of its own."""

    key, pad, max_length = "letters", 0, 8

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, rows: Any) -> tuple[list[list[int]], list[int]]:
        self.asked += rows
        ids = [[1, *(2 + ord(c) % 30 for c in r if not c.isspace())] for r in rows]
        return [i[:8] for i in ids], [len(i) for i in ids]


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl", "frame"])
def test_tables_with_a_text_column_found_by_itself(tmp_path: Path, kind: str) -> None:
    table, path = frame(year=list(range(20)), code=[f"A{i}" for i in range(20)]), tmp_path / f"t.{kind}"
    if kind in ("csv", "tsv"):
        table.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    elif kind == "parquet":
        table.to_parquet(path)
    elif kind == "jsonl":
        table.to_json(path, orient="records", lines=True)
    data = prepare(table if kind == "frame" else str(path))
    assert (data.profile.modality, data.profile.task, data.profile.columns) == ("text", "binary", ("text",))
    assert data.dataset.load(0) == texts()[0]
    assert "texts are taken from the column 'text', labels from 'label'; not used: 'year', 'code'" in notes(data)


def test_a_column_of_any_name_is_found_by_what_it_holds() -> None:
    table = frame().rename(columns={"text": "what they said", "label": "stars"})
    data = prepare(table)
    assert data.profile.columns == ("what they said",)
    assert data.profile.targets == ("stars",)


def test_several_text_columns_are_joined_with_their_names() -> None:
    table = frame(title=[f"The film number {i} of many" for i in range(20)])
    table.loc[3, "title"] = None
    data = prepare(table, target="label")
    assert data.profile.columns == ("text", "title")
    assert data.dataset.load(1) == f"text: {texts()[1]}\ntitle: The film number 1 of many"
    assert data.dataset.load(3) == f"text: {texts()[3]}"
    assert "joined with their names" in notes(data)


def test_a_column_of_image_paths_stays_images() -> None:
    table = frame(image=[f"{i}.png" for i in range(20)])
    with pytest.raises(DataError, match="none of its 20 rows is usable"):
        prepare(table, target="label")  # there are no such files, and nothing else was taken for the data
    assert prepare(table, target="label", modality="text").profile.columns == ("text",)


@pytest.mark.parametrize(
    ("table", "given", "message"),
    [
        (pd.DataFrame({"age": range(20), "label": [0, 1] * 10}), {}, "no column clearly holds images or"),
        (pd.DataFrame({"age": range(20), "label": [0, 1] * 10}), {"modality": "text"}, "no column holds texts"),
        (
            pd.DataFrame({"city": ["Rom", "Ulm"] * 10, "name": ["Ada", "Bo"] * 10, "label": [0, 1] * 10}),
            {"modality": "text"},
            "which of the columns city, name hold texts",
        ),
        (frame(other=range(20)).rename(columns={"label": "mood"}), {}, r"which column is the target\? Say target="),
        (frame(), {"modality": "smell"}, "modality is 'smell'"),
        (frame(), {"target": "lable"}, "did you mean label"),
    ],
)
def test_an_ambiguous_table_says_how_to_choose(table: pd.DataFrame, given: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare(table, **given)


def test_short_names_are_texts_where_the_caller_says_so() -> None:
    table = pd.DataFrame({"name": [f"n{i}" for i in range(20)], "language": ["de", "it"] * 10})
    assert prepare(table, target="language", modality="text").profile.columns == ("name",)


@pytest.mark.parametrize(
    "make", [list, np.array, pd.Series, lambda x: pd.DataFrame({"t": x}), lambda x: np.array(x, object)]
)
def test_x_and_y_in_memory(make: Any) -> None:
    data = prepare((make(texts()), [0, 1] * 10))
    assert data.profile.modality == "text"
    assert data.dataset.load(5) == texts()[5]


def test_other_tasks_on_texts() -> None:
    assert prepare((texts(40), [i * 0.37 for i in range(40)])).profile.task == "regression"
    assert prepare((texts(40), [["a", "b"][: 1 + i % 2] for i in range(40)])).profile.task == "multilabel"


@pytest.mark.parametrize("split", [False, True])
def test_class_folders_of_files(tmp_path: Path, split: bool) -> None:
    for part in ("train", "val", "test") if split else (".",):
        for i, text in enumerate(texts()):
            place = tmp_path / part / ("good", "bad")[i % 2]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{i}.txt").write_text(f"{part} {text}")
    data = prepare(tmp_path)
    assert data.profile.modality == "text"
    assert data.profile.counts == ({"bad": 30, "good": 30} if split else {"bad": 10, "good": 10})
    assert data.dataset.row_name(0).endswith("bad/1.txt")


def test_captions_beside_images_are_no_data(tmp_path: Path) -> None:
    from PIL import Image

    for c in "ab":
        (tmp_path / c).mkdir()
        for i in range(6):
            Image.fromarray(np.random.default_rng(i).integers(0, 255, (5, 5), np.uint8)).save(
                tmp_path / c / f"{c}{i}.png"
            )
            (tmp_path / c / f"{i}.txt").write_text(f"a picture of {c} {i}")
    assert prepare(tmp_path, task="binary").profile.modality == "image"
    assert prepare(tmp_path, modality="text").profile.modality == "text"


class HubDataset:
    """What a Hugging Face dataset looks like."""

    column_names = ("sentence", "label", "idx")

    def __init__(self, rows: int = 20) -> None:
        self.features = {
            "sentence": type("Value", (), {})(),
            "label": type("ClassLabel", (), {"names": ["no", "yes"]})(),
        }
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return [self[i][key] for i in range(self.rows)]
        return {"sentence": texts()[key], "label": key % 2, "idx": key}


class Pairs:
    """What a torch Dataset of texts looks like."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, i: int) -> Any:
        if not 0 <= i < 20:
            raise IndexError(i)
        return texts()[i], i % 2


def test_datasets_by_what_they_can_do() -> None:
    data = prepare(HubDataset())
    assert (data.profile.modality, data.profile.columns) == ("text", ("sentence",))
    assert data.profile.counts == {"no": 10, "yes": 10}
    assert data.dataset.load(2) == texts()[2]
    parts = prepare({"train": HubDataset(), "test": HubDataset(8)})
    assert parts.profile.modality == "text"
    assert prepare(Pairs()).profile.modality == "text"


@pytest.mark.parametrize(
    ("body", "guessed"),
    [
        (codecs.BOM_UTF8 + "é".encode(), False),
        ("é".encode("utf-16"), False),
        ("é und mehr".encode("utf-16-le"), False),
        ("é und mehr".encode("utf-16-be"), False),
        ("é".encode("utf-32"), False),
        ("é und mehr".encode("latin-1"), True),
    ],
)
def test_encodings(body: bytes, guessed: bool) -> None:
    text, told = decode(body, "a.txt")
    assert text[0] == "é"
    assert told is guessed


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(DataError, match="cannot be read as a text"):
        decode(bytes(range(256)) * 20, "a.txt")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1", "cp1252"])
def test_tables_of_other_encodings(tmp_path: Path, encoding: str) -> None:
    table = frame()
    table["text"] = [f"Ça va très bien, numéro {i}" for i in range(20)]
    path = tmp_path / "t.csv"
    path.write_text(table.to_csv(index=False), encoding=encoding)
    data = prepare(path)
    assert data.dataset.load(3) == "Ça va très bien, numéro 3"
    assert ("Western European" in notes(data)) is (encoding in ("latin-1", "cp1252"))


def test_a_late_byte_that_is_no_utf8_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotransfer.data.text.SNIFFED", 64)
    table = frame()
    table.loc[19, "text"] = "un café de trop"
    (tmp_path / "t.csv").write_text(table.to_csv(index=False), encoding="latin-1")
    assert prepare(tmp_path / "t.csv").dataset.load(19) == "un café de trop"


def test_odd_texts_are_kept_counted_and_told(tmp_path: Path) -> None:
    rows = texts(40)
    rows[1], rows[2], rows[3], rows[4] = "", " \n", "so\x00so \ud800 good", "word " * 3000
    rows[5] = "\U0001f600" * 3
    data = prepare((rows, [0, 1] * 20))
    assert data.profile.rows == 40
    assert issue(data, "empty_texts").rows == ("row 1", "row 2")
    assert issue(data, "long_texts").rows == ("row 4",)
    assert data.profile.facts["text.empty"] == 2
    assert data.dataset.load(3) == "so so \ufffd good"
    assert data.profile.facts["text.words_max"] == 3000
    missing = frame()
    missing.loc[2, "text"] = None
    assert issue(prepare(missing), "empty_texts").rows == ("row 2",)


def test_files_that_are_no_text_are_counted_and_named(tmp_path: Path) -> None:
    for i, text in enumerate(texts()):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        (tmp_path / "ab"[i % 2] / f"{i}.txt").write_text(text)
    (tmp_path / "a" / "x.txt").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "a" / "y.txt").write_bytes("déjà vu, et plus que ça".encode("latin-1"))
    data = prepare(tmp_path)
    assert issue(data, "unreadable").rows == ("a/x.txt",)
    assert issue(data, "guessed_encoding").rows == ("a/y.txt",)


def test_facts_of_words_and_languages() -> None:
    rows = ["the cat is in the house with all of us"] * 2 + ["der Hund ist nicht in dem Haus und das ist gut"] * 2
    rows = [f"{r} {i}" for i, r in enumerate(rows * 10)]
    facts = prepare((rows, [0, 1] * 20)).profile.facts
    assert facts["text.languages"] == "English 50%, German 50%"
    assert facts["text.words_median"] == pytest.approx(11.5)
    assert isinstance(facts["text.vocabulary"], int)
    assert facts["text.vocabulary"] == len({w for r in rows for w in words_of(r)})


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("le chat est dans la maison avec les autres", "French"),
        ("el perro está en la casa con los demás", "Spanish"),
        ("я не знаю, что это такое", "Cyrillic script"),
        ("これは本です", "Japanese"),
        ("这是一本书", "Chinese"),
        ("이것은 책입니다", "Korean"),
        ("qwx zvb", "unknown"),
        ("12 34", "unknown"),
    ],
)
def test_languages_are_guessed_where_that_can_be(text: str, language: str) -> None:
    from collections import Counter

    assert guess_language(text, Counter(words_of(text))) == language


def test_copies_of_texts_stay_together_and_leave_train_for_a_given_test() -> None:
    table = frame(split=["train"] * 12 + ["val"] * 4 + ["test"] * 4)
    table.loc[0, "text"] = table.loc[18, "text"]
    data = prepare(table)
    assert data.profile.rows == 19
    assert "left out" in issue(data, "duplicates_across_splits").text


def test_a_separate_test_table_of_the_same_columns() -> None:
    other = pd.DataFrame({"text": [f"{t} there" for t in texts(8)], "label": ["good", "bad"] * 4})
    data = prepare(frame(), test=other)
    assert data.profile.test == 8
    with pytest.raises(DataError, match="taken from the columns"):
        prepare(frame(title=texts()), target="label", test=other)


# Tokens.


def test_batches_are_padded_under_a_mask_and_rows_tokenised_once() -> None:
    data, letters = prepare((texts(), [0, 1] * 10)), Letters()
    data.keep(None)
    rows = data.rows(data.train, IDS, letters)
    batch = rows.batch([0, 1])
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 8)
    count = len(letters.asked)
    rows.batch([1, 0])
    rows.lengths()
    rows.batch(range(len(rows)))
    assert count <= len(letters.asked) == len(rows)
    assert "100.0% of 12 texts are longer than 8 tokens" in rows.told()


def test_a_text_without_tokens_is_one_that_is_looked_at() -> None:
    class Silent(Letters):
        def __call__(self, rows: Any) -> tuple[list[list[int]], list[int]]:
            return [[] for _ in rows], [0 for _ in rows]

    batch: Any = modality("text").stack(["", "x"], IDS, Silent(), "none", None)
    assert batch["attention_mask"].tolist() == [[1], [1]]


def test_raw_texts_where_the_network_takes_them_and_an_error_without_a_tokenizer() -> None:
    kind = modality("text")
    assert kind.stack(["a", "b"], TextInput(), None, "none", None) == ["a", "b"]
    with pytest.raises(DataError, match="tokenizer was not loaded"):
        kind.stack(["a"], IDS, None, "none", None)


def test_rows_of_a_dataset_that_cannot_be_read_are_left_to_whoever_reads_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("fine")
    from autotransfer.data.dataset import ItemDataset

    rows = ItemDataset("two", [tmp_path / "a.txt", tmp_path / "gone.txt"], {}, modality="text")
    assert Tokens(rows).batch(np.array([0, 1]), IDS, Letters()) is None
    assert Tokens(rows).batch(np.array([0]), IDS, Letters()) is not None


# Predicting.


@pytest.mark.parametrize("given", ["a film", "a film.", b"a film", "data of films.csv and more"])
def test_one_text(given: Any) -> None:
    items = as_items(given, "text", TextInput())
    assert (items.single, len(items)) == (True, 1)


def test_paths_tables_and_lists(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a film")
    frame().to_csv(tmp_path / "t.csv", index=False)
    assert as_items(str(tmp_path / "a.txt"), "text", TextInput()).dataset.load(0) == "a film"
    assert as_items(tmp_path / "a.txt", "text", TextInput()).single
    table = as_items(str(tmp_path / "t.csv"), "text", TextInput(), columns=("text",))
    assert (table.single, len(table)) == (False, 20)
    assert len(as_items(str(tmp_path), "text", TextInput())) == 1
    assert as_items([str(tmp_path / "a.txt")], "text", TextInput()).dataset.load(0) == str(tmp_path / "a.txt")
    assert len(as_items([], "text", TextInput())) == 0
    with pytest.raises(DataError, match="does not exist"):
        as_items("gone.txt", "text", TextInput())
    with pytest.raises(DataError, match="does not exist"):
        as_items(tmp_path / "gone", "text", TextInput())


def test_a_bad_item_among_good_ones_is_reported_for_itself() -> None:
    items = as_items(["a", None, "b", object()], "text", TextInput())
    assert list(items.batches(on_error="report")) == [([0, 2], ["a", "b"])]
    assert set(items.failed) == {1, 3}
    with pytest.raises(DataError, match="2 rows cannot be read: row 1: NoneType is no text"):
        list(items.batches())


def test_numbers_are_texts_as_they_are_written_and_nan_is_none() -> None:
    assert as_text(7)[0] == "7"
    with pytest.raises(DataError, match="NaN"):
        as_text(float("nan"))


@pytest.mark.parametrize(("between", "told"), [(",", False), (";", True), ("\t", True), ("|", True)])
def test_columns_may_be_told_apart_by_other_signs(tmp_path: Path, between: str, told: bool) -> None:
    lines = [between.join(("review", "stars"))]
    lines += [between.join((f'"quite {kind}, film {i}"', kind)) for i in range(20) for kind in ("good", "bad")]
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    profile = prepare(str(tmp_path / "t.csv"), seed=0).profile
    assert (profile.rows, profile.classes) == (40, ("bad", "good"))
    assert any("told apart" in issue.text for issue in profile.issues) is told
