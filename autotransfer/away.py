"""A fit through Ray Client: the engine runs on the cluster's head; rows go there, records and the model come back."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import shutil
import signal
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotransfer import errors, weights
from autotransfer.config import SOURCES, Settings, to_yaml
from autotransfer.data import Prepared
from autotransfer.data.moved import files, moved, place
from autotransfer.errors import ClusterMismatchError, ConfigError, DataError, SearchError, faults
from autotransfer.registry import Registry
from autotransfer.runs import RunFolder, grew
from autotransfer.search.host import DATA, LEDGER, PLUGINS, RUN, News, Outcome, Part
from autotransfer.search.nodes import looked_at, sources

if TYPE_CHECKING:
    from autotransfer.model import TransferModel
    from autotransfer.search.client import Far, Listener

log = logging.getLogger(__name__)
Notify = Callable[..., None]
MOST = 20 * 10**9
"""Bytes of files that are sent to a head; more should lie where it sees them."""
REPORT = "report.html"


def fit(
    settings: Settings, notify: Notify, prepared: Prepared, registry: Registry, name: str, engine: Callable[..., None]
) -> TransferModel:
    """Return the model of a fit whose engine runs on the cluster's head.

    Args:
        settings: of the run.
        notify: told of everything, as if the engine ran here.
        prepared: the rows.
        registry: the plugins.
        name: identity of the run.
        engine: called on the head with settings, rows, plugins and whom to tell; it leaves the model in ``out``.

    Raises:
        ClusterMismatchError: the head has another autotransfer, or other plugins.
        ConfigError: the files of the data are more than should travel.
        SearchError: the head or the connection is lost, or what the engine raised.
        KeyboardInterrupt: before anything was found.
    """
    from autotransfer.model import load
    from autotransfer.search import client

    folder = RunFolder(settings.out)
    with folder.opened(settings, name) as finished:
        if finished is not None and not grew(settings, finished):
            return load(folder.model, plugins=settings.plugins)
        with client.hosted("autotransfer") as far:
            there = Path(far.call("place"))
            _send_plugins(far, registry)
            rows = _at_head(far, prepared, there / DATA, notify)
            asked = _settings_there(settings, rows, registry, there)
            _send_run(far, folder, to_yaml(asked, identity=name))
            offline = weights.is_offline(settings.offline)
            run = far.run(engine, asked, rows, registry.manifest(), offline)
            listener = client.Listener(far, run, _size(folder.path / LEDGER))
            outcome = _followed(listener, folder, notify)
            where = folder.model if folder.kept else Path(tempfile.mkdtemp(prefix="autotransfer-model-"))
            _bring(far, folder, where, outcome)
        model = load(where, plugins=settings.plugins)
        if folder.kept:
            folder.close(settings, name, complete=model.run.status != "interrupted")
            notify("saved", path=str(folder.model))
        else:  # its assets are read as long as it lives
            model.path = None
            weakref.finalize(model, shutil.rmtree, where, ignore_errors=True)
    return model


def _send_plugins(far: Far, registry: Registry) -> None:
    """Send single-file plugins, and see that the head has the others, and autotransfer, in the same versions."""
    manifest = registry.manifest()
    own = sources(manifest)
    far.send([Part(f"{PLUGINS}/{Path(path).name}", 0, body) for path, body in own.items()])
    found = far.call("faults", importlib.metadata.version("autotransfer"), manifest)
    if found:
        raise ClusterMismatchError(faults("the cluster's head cannot run this search", found))


def _at_head(far: Far, prepared: Prepared, folder: Path, notify: Notify) -> Prepared:
    """Return the rows as the head has them: files that it does not see are sent there."""
    if far.call("sees", looked_at(prepared)):
        return prepared
    found = list(files(prepared))
    total = sum(_size(path) for path in found)
    if total > MOST:
        raise ConfigError(
            f"the data are {len(found):,} files of {total / 1e9:.1f} GB that the cluster's head does not see; more "
            f"than {MOST / 1e9:.0f} GB are not sent: put them where the head sees them at the same path"
        )
    notify("waiting", text=f"{len(found):,} files ({total / 1e6:.1f} MB) to be sent to the cluster's head")
    _send(far, [(path, f"{DATA}/{place(path, Path()).as_posix()}") for path in found])
    return moved(prepared, folder)


def _settings_there(settings: Settings, rows: Prepared, registry: Registry, there: Path) -> Settings:
    """Return the arguments as the head has them."""
    files = {Path(row["path"]).name for row in registry.manifest() if row["path"]}

    def named(plugin: Any) -> str:
        name = Path(str(plugin)).name
        return str(there / PLUGINS / name) if name in files else str(getattr(plugin, "__name__", plugin))

    sources: dict[str, Any] = {**dict.fromkeys((*SOURCES, "groups")), "data": rows.profile.name}
    plugins = [named(p) for p in settings.plugins]
    return replace(settings, **sources, plugins=plugins, address=None, out=str(there / RUN))


def _send_run(far: Far, folder: RunFolder, arguments: str) -> None:
    """Send what an earlier run left, so that the head goes on with it."""
    far.send([Part(f"{RUN}/run.yaml", 0, arguments.encode())])
    ledger = folder.path / LEDGER
    if not ledger.exists():
        return
    whole = ledger.read_bytes()
    if not whole.endswith(b"\n"):  # a process died while it wrote the last line
        os.truncate(ledger, whole.rfind(b"\n") + 1)
    work = [p for p in sorted(folder.work.rglob("*")) if p.is_file()]
    left = [(p, f"{RUN}/{p.relative_to(folder.path).as_posix()}") for p in (ledger, *work)]
    _send(far, left)


def _send(far: Far, named: Sequence[tuple[Path, str]]) -> None:
    """Send files in pieces, small ones together."""
    from autotransfer.search.client import PIECE

    parts, held = list[Part](), 0
    for path, name in named:
        for part in _parts(path, name, PIECE):
            if parts and held + len(part.body) > PIECE:
                far.send(parts)
                parts, held = [], 0
            parts.append(part)
            held += len(part.body)
    if parts:
        far.send(parts)


def _parts(path: Path, name: str, most: int) -> Iterator[Part]:
    try:
        with path.open("rb") as file:
            at = 0
            while (body := file.read(most)) or not at:
                yield Part(name, at, body)
                at += max(1, len(body))
    except OSError as error:
        raise DataError(f"{path} cannot be read any more: {error.strerror}") from error


def _followed(listener: Listener, folder: RunFolder, notify: Notify) -> Outcome:
    """Write and tell what the head tells, until its run has ended; Ctrl-C ends the search there, a second one all."""
    with _interrupted(listener.stop):
        for news in listener.news():
            _write(folder, news)
            for event, facts in news.events:
                if event == "saved":  # there; here it is not yet
                    continue
                try:
                    notify(event, **facts)
                except KeyboardInterrupt:
                    listener.stop()
            if news.outcome is not None:
                return news.outcome
    raise AssertionError("a listener ends with an outcome")


@contextlib.contextmanager
def _interrupted(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at Ctrl-C in place of a KeyboardInterrupt, which could come between any two lines."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: stop())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _write(folder: RunFolder, news: News) -> None:
    for name, body in news.files.items():
        folder.write(name, body.decode())
    if news.ledger:
        with (folder.path / LEDGER).open("ab") as file:
            file.write(news.ledger)
            file.flush()
            os.fsync(file.fileno())


def _bring(far: Far, folder: RunFolder, model: Path, outcome: Outcome) -> None:
    """Bring the model and what belongs to it, or raise what the run raised."""
    if folder.kept:  # a run that is not complete goes on from these
        _fetch_folder(far, f"{RUN}/{folder.work.name}", folder.work)
    if outcome.error:
        log.debug("the engine on the cluster's head raised:\n%s", outcome.trace)
        if outcome.error == "KeyboardInterrupt":
            raise KeyboardInterrupt
        kind = getattr(errors, outcome.error, None)
        if isinstance(kind, type) and issubclass(kind, errors.AutotransferError):
            raise kind(outcome.text)
        raise SearchError(f"the engine on the cluster's head failed: {outcome.error}: {outcome.text}")
    _fetch_folder(far, f"{RUN}/{folder.model.name}", model)
    if folder.kept:
        (folder.path / REPORT).unlink(missing_ok=True)  # that of an older model, where this one has none
        if REPORT in dict(far.call("files", RUN)):
            _fetch(far, f"{RUN}/{REPORT}", folder.path / REPORT)


def _fetch_folder(far: Far, name: str, to: Path) -> None:
    """Put a folder of the head's in place of one here."""
    part = to.with_name(f".{to.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for inside, _ in far.call("files", name):
        _fetch(far, f"{name}/{inside}", part / inside)
    if to.exists():
        shutil.rmtree(to)
    os.replace(part, to)


def _fetch(far: Far, name: str, to: Path) -> None:
    from autotransfer.search.client import PIECE

    to.parent.mkdir(parents=True, exist_ok=True)
    part = to.with_name(f".{to.name}.part")
    with part.open("wb") as file:
        while body := far.call("read", name, file.tell(), PIECE):
            file.write(body)
    os.replace(part, to)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
