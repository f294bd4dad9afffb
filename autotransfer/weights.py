"""Where pretrained weights come from: a cache folder, filled from hubs, files and PyPI packages, checksummed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from autotransfer.errors import WeightsError
from autotransfer.home import cache_folder
from autotransfer.mend import mend_torchvision
from autotransfer.spec import WeightSource

__all__ = ["assets_folder", "available", "cache_folder", "fetch", "is_offline", "members", "mend_torchvision", "sha256"]

log = logging.getLogger(__name__)
_YES = {"1", "ON", "YES", "TRUE"}
_OFFLINE = ("AUTOTRANSFER_OFFLINE", "HF_HUB_OFFLINE")
_CONTENTS = ".contents.json"
"""Checksums of the files of a fetched folder; written last, so that a folder without it is not whole."""
_FROM_HUB = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model")
"""What is taken of a hub folder: safetensors, configuration and tokenizer; never code, never a pickle."""


def is_offline(offline: bool = False) -> bool:
    """Return whether the network is forbidden: as asked, by ``AUTOTRANSFER_OFFLINE`` or by ``HF_HUB_OFFLINE``."""
    return offline or any(os.environ.get(name, "").upper() in _YES for name in _OFFLINE)


def fetch(source: WeightSource, *, offline: bool = False) -> Path:
    """Return the local path of weights, downloaded where that is needed and allowed.

    What the cache holds is checked against its checksum each time; a damaged copy is fetched again. Two
    processes may fetch the same weights at once.

    Args:
        source: where they come from. Of a package the path is that of the member, or of the folder where the
            member ends with a slash; of a hub it is a safetensors file, or a folder where the member is ``/``.
        offline: use nothing but local files.

    Raises:
        WeightsError: they cannot be had, or their checksum is not the promised one.
    """
    if source.where == "file":
        return _file(source)
    if source.where == "hub":
        return _hub(source, is_offline(offline))
    path = _cached(source)
    if _good(path, source):
        return path
    if is_offline(offline):
        state = "damaged in" if path.exists() else "not in"
        raise WeightsError(
            f"{_title(source)} is {state} the cache {cache_folder()} and the run is offline; "
            "fetch it where there is a network: autotransfer weights fetch ID"
        )
    try:
        return _from_package(source, path)
    except (OSError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"{_title(source)} could not be put into the cache {cache_folder()}: {error}; make room there or name "
            "another folder by AUTOTRANSFER_HOME, then try again"
        ) from error


def available(source: WeightSource | None, offline: bool = False) -> str:
    """Return an empty string where weights can be had without a download, else what is missing."""
    if source is None:
        return ""
    if source.where == "file":
        path = Path(source.name).expanduser()
        return "" if os.access(path, os.R_OK) else f"the file {path} does not exist or cannot be read"
    if source.where == "hub":
        return "" if _hub_cached(source) else _missing(source, offline)
    return "" if _good(_cached(source), source, deep=False) else _missing(source, offline)


def _missing(source: WeightSource, offline: bool) -> str:
    size = f" of {source.bytes / 1e6:.0f} MB" if source.bytes else ""
    if is_offline(offline):
        return f"its weights are not in the cache ({_title(source)}) and the run is offline"
    return f"needs a download{size} ({_title(source)})"


def assets_folder(path: str | Path | None) -> Path | None:
    """Return the folder that holds a backbone's assets: that of its weights, or the one beside them."""
    if path is None:
        return None
    return Path(path) if Path(path).is_dir() else Path(path).parent


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _title(source: WeightSource) -> str:
    version = f" {source.version}" if source.version else ""
    return f"{source.name}{version} from {'PyPI' if source.where == 'pypi' else 'the hub'}"


def _file(source: WeightSource) -> Path:
    path = Path(source.name).expanduser()
    if not os.access(path, os.R_OK):
        raise WeightsError(f"the weights file {path} does not exist or cannot be read; mend the path in its card")
    if source.sha256 and path.is_file() and sha256(path) != source.sha256:
        raise WeightsError(f"the weights file {path} has another checksum than its card promises; get it again")
    return path


def _cached(source: WeightSource) -> Path:
    member = PurePosixPath(str(source.member))
    folder = cache_folder() / "weights" / f"{source.name}-{source.version}-{str(source.sha256)[:12]}"
    return folder / member.name


def _good(path: Path, source: WeightSource, deep: bool = True) -> bool:
    """Return whether the cache holds this member and those beside it, and, where ``deep``, whether undamaged."""
    if str(source.member).endswith("/"):
        return _good_folder(path, deep)
    wanted = {path: source.sha256, **{path.with_name(PurePosixPath(m).name): s for m, s in source.beside.items()}}
    return all(p.is_file() and (not deep or sha256(p) == checksum) for p, checksum in wanted.items())


def _good_folder(path: Path, deep: bool) -> bool:
    contents = path / _CONTENTS
    if not contents.is_file() or not deep:
        return contents.is_file()
    try:
        wanted = json.loads(contents.read_text(encoding="utf-8"))
        return all(sha256(path / name) == checksum for name, checksum in wanted.items())
    except (OSError, ValueError, AttributeError):
        log.warning("the cached folder %s is damaged", path)
        return False


def _from_package(source: WeightSource, path: Path) -> Path:
    with tempfile.TemporaryDirectory(prefix="autotransfer-") as folder:
        archive = _download(source, Path(folder))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            if str(source.member).endswith("/"):
                _take_folder(source, archive, temporary)
            else:
                for member, checksum in source.beside.items():
                    _take_file(source, archive, temporary, member, checksum)
                    os.replace(temporary, path.with_name(PurePosixPath(member).name))
                _take_file(source, archive, temporary, str(source.member), str(source.sha256))
            _put(temporary, path)
        finally:
            if temporary.is_dir():
                shutil.rmtree(temporary)
            temporary.unlink(missing_ok=True)
    return path


def _put(temporary: Path, path: Path) -> None:
    """Move into place, over a damaged copy too; where another process was first, either copy is as good."""
    if not temporary.is_dir():
        os.replace(temporary, path)
        return
    if path.is_dir() and not _good_folder(path, deep=True):
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.damaged")
        os.replace(path, aside)
        shutil.rmtree(aside)
    try:
        os.replace(temporary, path)
    except OSError:  # a folder cannot replace another: somebody has just put theirs there
        if not _good_folder(path, deep=True):
            raise


def _download(source: WeightSource, folder: Path) -> Path:
    """Fetch the package's wheel by name; nothing of it is installed, imported or run.

    An sdist is never asked for: to read its metadata pip runs the build script in it.
    """
    wanted = f"{source.name}=={source.version}"
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--only-binary=:all:", "-d", str(folder), wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
        fault = next((line for line in reversed(said) if line.startswith("ERROR")), said[-1])
        raise WeightsError(
            f"the wheel {wanted} could not be downloaded: {fault.removeprefix('ERROR: ')}; check the network and "
            f"pip's settings, which this command shows: {Path(sys.executable).name} -m pip download --no-deps {wanted}"
        )
    return found[0]


def members(archive: Path, wanted: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the named file of an archive, or every file under the named folder, each opened for reading.

    Members are read one by one and never extracted by their own path.
    """
    with zipfile.ZipFile(archive) as box:
        for info in box.infolist():
            if _wanted(info.filename, wanted) and not info.is_dir():
                with box.open(info) as file:
                    yield info.filename, file


def _wanted(name: str, wanted: str) -> bool:
    return name.startswith(wanted) if wanted.endswith("/") else name == wanted


def _take_file(source: WeightSource, archive: Path, target: Path, wanted: str, checksum: str) -> None:
    for _, file in members(archive, wanted):
        with target.open("wb") as out:
            shutil.copyfileobj(file, out)
        if sha256(target) != checksum:
            raise WeightsError(f"{wanted} in {_title(source)} has another checksum than promised; it is not used")
        return
    raise WeightsError(f"{_title(source)} holds no file {wanted}; its card names another version")


def _take_folder(source: WeightSource, archive: Path, target: Path) -> None:
    if sha256(archive) != source.sha256:
        raise WeightsError(f"{_title(source)} has another checksum than promised; it is not used")
    prefix = str(source.member)
    contents: dict[str, str] = {}
    for name, file in members(archive, prefix):
        relative = PurePosixPath(name.removeprefix(prefix))
        if relative.is_absolute() or ".." in relative.parts or set(str(relative)) & set("\\:"):
            raise WeightsError(f"{_title(source)} holds a member that leads outside its folder: {name}")
        place = target.joinpath(*relative.parts)
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as out:
            shutil.copyfileobj(file, out)
        contents[relative.as_posix()] = sha256(place)
    if not contents:
        raise WeightsError(f"{_title(source)} holds no folder {prefix}; its card names another version")
    (target / _CONTENTS).write_text(json.dumps(contents), encoding="utf-8")


def _hub_file(source: WeightSource) -> str:
    return source.member or "model.safetensors"


def _hub_cached(source: WeightSource) -> bool:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    if _hub_file(source) != "/":
        found = huggingface_hub.try_to_load_from_cache(source.name, _hub_file(source), revision=source.version)
        return isinstance(found, str)
    try:
        return _whole(huggingface_hub.snapshot_download(source.name, revision=source.version, local_files_only=True))
    except LocalEntryNotFoundError:
        return False


def _whole(folder: str) -> bool:
    return any(Path(folder).glob("*.safetensors"))


def _hub(source: WeightSource, offline: bool) -> Path:
    """Return a safetensors file of a hub repository, or its folder; no pickle is ever asked for."""
    member = _hub_file(source)
    if member != "/" and not member.endswith(".safetensors"):
        raise WeightsError(f"{source.name} asks for {member}; only safetensors are taken from a hub")
    import huggingface_hub

    try:
        if member == "/":
            got = huggingface_hub.snapshot_download(
                source.name, revision=source.version, local_files_only=offline, allow_patterns=list(_FROM_HUB)
            )
        else:
            got = huggingface_hub.hf_hub_download(
                source.name, member, revision=source.version, local_files_only=offline
            )
    except Exception as error:  # the client raises many kinds, all of which mean: not to be had
        text = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{source.name} cannot be had from the hub{' offline' if offline else ''}: {type(error).__name__}: {text}; "
            "fetch it where the hub can be reached, or choose backbones that are here: "
            "autotransfer backbones --available"
        ) from error
    if member == "/" and not _whole(got):
        raise WeightsError(f"{source.name} holds no safetensors; a pickle is not read: ask its author to convert it")
    if source.sha256 and member != "/" and sha256(Path(got)) != source.sha256:
        raise WeightsError(f"{source.name} from the hub has another checksum than promised; it is not used")
    return Path(got)
