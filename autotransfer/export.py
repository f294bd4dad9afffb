"""A model's network as an ONNX file, checked against the model by another runtime before anything is kept.

Beside the file stands ``NAME.onnx.json``: what goes in and how it is prepared, what comes out, and how it was checked.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autotransfer.codec import to_json
from autotransfer.data.modalities import modality
from autotransfer.data.rows import stack
from autotransfer.errors import ConfigError, DataError, ModelError, suggestion
from autotransfer.model_assets import assets_of
from autotransfer.protocols import Task, Tasks
from autotransfer.schema import Recipe
from autotransfer.spec import BackboneSpec
from autotransfer.train.network import TransferNetwork
from autotransfer.weights import mend_torchvision, sha256

FORMATS = ("onnx",)
TOLERANCE = 1e-4
"""Largest difference of an answer from the model's, absolute below 1 and relative above."""
NEEDED = ("onnx", "onnxscript", "onnxruntime")
"""Of the extra ``export``."""
SAMPLES = 5
"""Made-up rows that the check runs on, beside odd ones."""
Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Subject:
    """What is exported."""

    network: TransferNetwork
    task: Task
    spec: BackboneSpec
    recipe: Recipe
    tools: Any
    """What the inputs need beside the rows: a tokenizer."""
    assets: Path | None


class _Whole(nn.Module):
    """A network that takes its inputs one by one, and gives its outputs and the task's answers.

    Args:
        network: backbone and head.
        task: makes answers of outputs.
        names: of the inputs; None: there is one, which is no mapping.
    """

    def __init__(self, network: nn.Module, task: Task, names: Sequence[str] | None) -> None:
        super().__init__()
        self.network, self.task, self.names = network, task, names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = inputs[0] if self.names is None else dict(zip(self.names, inputs, strict=True))
        outputs = self.network(given)
        return outputs, *self.task.answers(outputs).values()


def write(subject: Subject, path: Path, to: str = "onnx") -> Path:
    """Write a model's network, and beside it what goes in and comes out; both are written, or neither.

    Args:
        subject: the model.
        path: of the file, with the suffix ``.onnx``; an older one is replaced.
        to: the format.

    Returns:
        The path of the file; :func:`note_of` gives that of the JSON beside it.

    Raises:
        ConfigError: the format or the suffix is unknown, nothing can be written there, or the packages of the extra
            ``export`` are not installed.
        ModelError: the model is no network of tensors, cannot be exported, or gives other answers once it is.
    """
    _check(subject.spec, path, to)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written: {error.strerror}; name another file by --out") from error
    try:
        told = _exported(subject, temporary / path.name)
        note = note_of(path)
        (temporary / note.name).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary / note.name, note)
        os.replace(temporary / path.name, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def note_of(path: Path) -> Path:
    """Return the path of the JSON beside an exported file."""
    return path.with_name(f"{path.name}.json")


def _check(spec: BackboneSpec, path: Path, to: str) -> None:
    if to not in FORMATS:
        raise ConfigError(f"no format is called {to!r}{suggestion(to, FORMATS)}; known: {', '.join(FORMATS)}")
    if path.suffix != ".onnx":
        raise ConfigError(f"the file to write is {str(path)!r}; wanted a name that ends with .onnx")
    if spec.fitted:
        raise ModelError(
            f"{spec.id} is fitted to the training rows and is no network of tensors, so it cannot be exported; use it "
            "through autotransfer.load, or fit again with backbones= without it"
        )
    missing = [n for n in NEEDED if importlib.util.find_spec(n) is None]
    if missing:
        raise ConfigError(
            f"exporting needs {', '.join(missing)}, not installed here; run: pip install 'autotransfer[export]'"
        )


def _exported(subject: Subject, path: Path) -> dict[str, Any]:
    """Export to a path and check it; return what to tell."""
    spec, task = subject.spec, subject.task
    kind = modality(spec.modality)
    batches = _batches(subject)
    names = None if len(batches[0]) == 1 and "inputs" in batches[0] else tuple(batches[0])
    whole = _Whole(copy.deepcopy(subject.network).cpu(), task, names).eval()
    answers = tuple(task.answers(torch.zeros(1, task.outputs)))
    axes = {0: "batch", 1: "length"} if kind.ragged else {0: "batch"}
    mend_torchvision()  # the exporter looks for it
    with _quiet(), _reasons(f"{spec.id} cannot be exported to ONNX"), torch.no_grad():
        # Not optimised: onnxscript takes x + 1e-9 for x + 0, and the logarithm of silence is then infinite. The
        # runtime optimises what it loads in any case.
        made: Any = torch.onnx.export(
            whole,
            tuple(torch.from_numpy(v) for v in batches[0].values()),
            input_names=[*batches[0]],
            output_names=["outputs", *answers],
            dynamic_shapes=(tuple(axes for _ in batches[0]),),
            dynamo=True,
            optimize=False,
            external_data=False,
            verbose=False,
        )
        made.save(path, external_data=False)
    with _quiet(), _reasons(f"onnxruntime cannot run {spec.id} as it was exported"):
        session = _session(path)
        off = max(_difference(session, whole, task, batch) for batch in batches)
    if not off <= TOLERANCE:  # NaN is no small difference
        raise ModelError(
            f"{spec.id} gives other answers once it is exported: off by {off:.2g}, at most {TOLERANCE:g} is allowed; "
            "nothing was written"
        )
    return _told(subject, path, session, off, sum(len(next(iter(b.values()))) for b in batches))


def _batches(subject: Subject) -> list[Arrays]:
    """Return made-up inputs: a batch of several rows, one of two rows, and each odd row for itself."""
    spec, kind = subject.spec, modality(subject.spec.modality)
    items = kind.samples(spec.input, SAMPLES)
    found = []
    for batch in (items, items[1:3], items[-1:], *([odd] for odd in kind.odd().values())):
        inputs = stack(batch, spec.input, tools=subject.tools)
        named = inputs if isinstance(inputs, Mapping) else {"inputs": inputs}
        if not all(isinstance(v, Tensor) for v in named.values()):
            raise ModelError(
                f"{spec.id} takes {kind.many} as they are, not tensors, so it cannot be exported; use it through "
                "autotransfer.load"
            )
        found.append({n: v.contiguous().numpy() for n, v in named.items()})
    return found


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _difference(session: Any, whole: _Whole, task: Task, batch: Arrays) -> float:
    """Return how far the runtime's answers lie from the model's own, as the model gives them to its caller."""
    wanted = {i.name for i in session.get_inputs()}
    found = session.run(None, {n: v for n, v in batch.items() if n in wanted})
    with torch.no_grad():
        outputs, *answers = whole(*(torch.from_numpy(v) for v in batch.values()))
    own = task.probabilities(outputs) if task.classes else task.decode(outputs)
    truths = [outputs.numpy(), own] if len(answers) == 1 else [outputs.numpy(), *(a.numpy() for a in answers)]
    parts = zip(found, truths, strict=True)
    # ``max`` of a list would lose a NaN that is not its first.
    return float(np.max([np.abs((a - b) / np.maximum(1.0, np.abs(b))).max() for a, b in parts]))


def _classes(task: Task) -> list[Any] | dict[str, Any]:
    """Return the classes in the order of the probabilities; of several targets each one's by name."""
    if isinstance(task, Tasks):
        return {p.target: _classes(p.task) for p in task.parts}
    return list(getattr(task, "labels", ()))


def _told(subject: Subject, path: Path, session: Any, off: float, rows: int) -> dict[str, Any]:
    import onnx
    import onnxruntime

    spec, task, recipe = subject.spec, subject.task, subject.recipe
    kind, opsets = modality(spec.modality), onnx.load(str(path), load_external_data=False).opset_import
    return {
        "onnx": path.name,
        "sha256": sha256(path),
        "opset": next(o.version for o in opsets if not o.domain),
        "backbone": spec.id,
        "strategy": recipe.strategy,
        "task": task.to_json(),
        "classes": _classes(task),
        "inputs": [{"name": i.name, "type": i.type, "shape": i.shape} for i in session.get_inputs()],
        "outputs": [{"name": o.name, "type": o.type, "shape": o.shape} for o in session.get_outputs()],
        "preprocessing": {**to_json(spec.input), "steps": list(kind.steps(spec.input, subject.tools))},
        "assets": {name: sha256(file) for name, file in assets_of(spec, subject.assets).items()},
        "arithmetic": "float32",
        "checked": {
            "runtime": f"onnxruntime {onnxruntime.__version__}",
            "rows": rows,
            "largest_difference": off,
            "tolerance": TOLERANCE,
        },
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let neither warnings nor logs nor prints of the exporter through: what went wrong is said in one error."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _reasons(title: str) -> Iterator[None]:
    """Turn whatever the exporter or the runtime raises into one error with the first cause."""
    try:
        yield
    except (ModelError, DataError, MemoryError):
        raise
    except Exception as error:  # both raise nearly anything
        first: BaseException = error
        while (cause := first.__cause__ or first.__context__) is not None:
            first = cause
        text = " ".join(str(first).split())[:400] or "no reason was given"
        raise ModelError(f"{title}: {type(first).__name__}: {text}; nothing was written") from error
