"""Run folders: what a search leaves on disk, whose it is, and whether it may go on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autotransfer import yaml12
from autotransfer.codec import to_json
from autotransfer.config import Settings, to_yaml
from autotransfer.errors import ConfigError
from autotransfer.scratch import sweep
from autotransfer.search.storage import named

_TEMPORARY, _LOCK, _PART = "autotransfer-run-", ".lock", ".part"
_WORK_LEFT = (".*", "mark-*", "watchdog-*.txt", "autotransfer-tune-*")
"""What a run that was killed may leave in its work folder, beside what the next one goes on from."""


class RunFolder:
    """A run's folder: ``run.yaml profile.json plan.json plugins.json trials.jsonl model/ report.html``.

    Without ``out`` it is a temporary one, removed at the end.
    """

    def __init__(self, out: str | Path | None) -> None:
        self.kept = out is not None
        if out is None:
            sweep(_TEMPORARY, _LOCK)
        self.path = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix=_TEMPORARY))
        self.work = self.path / ".work"

    @property
    def ledger(self) -> Path | None:
        """Where records are appended."""
        return self.path / "trials.jsonl" if self.kept else None

    @property
    def model(self) -> Path:
        """Where the model is saved."""
        return self.path / "model"

    @contextlib.contextmanager
    def opened(self, settings: Settings, name: str) -> Iterator[Mapping[str, Any] | None]:
        """Hold the folder for one run; give what a finished run of the same identity left, or None.

        Raises:
            ConfigError: it is no run folder and cannot become one, is another run's, or is in use.
            StorageError: it was gone or full while it was needed.
        """
        held = self._state()
        if held is not None and held.get("identity") != name:
            raise ConfigError(
                f"{self.path} holds another run (other data, arguments or seed); choose another --out, or remove it"
            )
        try:
            if held is None and self.path.exists() and any(not _own(p.name) for p in self.path.iterdir()):
                raise ConfigError(f"{self.path} exists and is no run folder; choose another --out")
            self.work.mkdir(parents=True, exist_ok=True)
            lock = (self.path / _LOCK).open("w", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be a run folder: {error.strerror}; choose another --out") from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(
                    f"{self.path} is in use by another run; wait for it or choose another --out"
                ) from error
            with named(self.path):
                self._tidy()
                if held is None:
                    self.write("run.yaml", to_yaml(settings, identity=name))
                finished = held.get("finished") if held else None
                yield finished if self.model.exists() else None
                if ((self._state() or {}).get("finished") or {}).get("complete"):
                    shutil.rmtree(self.work, ignore_errors=True)  # of features and checkpoints there is no more need
        finally:
            lock.close()
            if not self.kept:
                shutil.rmtree(self.path, ignore_errors=True)

    def _tidy(self) -> None:
        """Remove what a run that was killed had begun to write; nobody else is in the folder now."""
        left = [p for pattern in _WORK_LEFT for p in self.work.glob(pattern)]
        left += [*self.path.glob(f".*{_PART}"), *self.path.glob(f".{self.model.name}.*")]
        for path in left:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _state(self) -> dict[str, Any] | None:
        import yaml

        file = self.path / "run.yaml"
        if not file.exists():
            return None
        try:
            body = yaml12.load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ConfigError(f"{file} is damaged: {' '.join(str(error).split())}") from error
        return body if isinstance(body, dict) else {}

    def write(self, name: str, text: str) -> None:
        """Write a file of the folder whole or not at all."""
        temporary = self.path / f".{name}{_PART}"
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self.path / name)
        finally:
            temporary.unlink(missing_ok=True)

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as readable JSON."""
        self.write(name, json.dumps(to_json(value), indent=1, ensure_ascii=False) + "\n")

    def close(self, settings: Settings, name: str, *, complete: bool) -> None:
        """Say that the run is over."""
        limit = settings.limit
        finished = {"seconds": limit.seconds, "trials": limit.trials, "complete": complete}
        self.write("run.yaml", to_yaml(settings, identity=name, finished=finished))


def _own(name: str) -> bool:
    """Return whether a run that was killed at its very beginning may have left a file of this name."""
    return name in (".work", _LOCK) or (name.startswith(".") and name.endswith(_PART))


def grew(settings: Settings, finished: Mapping[str, Any]) -> bool:
    """Return whether a run that was finished should go on: it was cut short, or has a larger budget now."""
    if not finished.get("complete"):
        return True
    limit = settings.limit
    pairs = ((limit.seconds, finished.get("seconds")), (limit.trials, finished.get("trials")))
    return any(now is not None and before is not None and now > before for now, before in pairs)
