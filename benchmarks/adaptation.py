"""Domain adaptation: rows with labels from one domain, rows without labels and the score from another.

    python benchmarks/data/fetch.py movies --out data/movies   # and tweets, drums
    python -m benchmarks.adaptation --data data

Three shifts: scikit-learn's digits and other digits inverted, thickened and noisy; film reviews and tweets; drums of
three kits and of all others. On each, with one backbone and fixed values: heads and fine-tunes of the labelled source
rows alone, each method for unlabeled rows, and as a ceiling the same heads and fine-tunes of as many *labelled* target
rows. Told are the score on target rows that no training saw, with a 95 % interval over them, the score on the source's
validation rows, the CPU-seconds of the trial, and the gap that the survey measured. One JSON line a cell goes to the
results file; a cell that is there is not run again. The means over seeds are printed as a table.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from autotransfer import weights
from autotransfer.codec import Scalar, to_json
from autotransfer.data import Prepared, prepare
from autotransfer.data.modalities import modality
from autotransfer.finish import evaluated, winning_network
from autotransfer.pool import at_sizes
from autotransfer.registry import Registry
from autotransfer.schema import SurveyRecord, TrialRecord
from autotransfer.search.candidates import Space
from autotransfer.search.jobs import Context, GapJob, RungJob, SurveyJob
from autotransfer.search.trial import Worker
from autotransfer.space import Choice
from autotransfer.spec import BackboneSpec, with_stages
from benchmarks.economy.cells import commit, machine

Array = np.ndarray[Any, Any]
Rows = tuple[list[Any], list[str]]
KITS = ("The Black Pearl 1.0", "BJA_Pacific", "Millo_MultiLayered2")
"""Whose drums are the source; those of all other kits are the target."""
SOURCE_ONLY = ("core/ridge", "core/full")
METHODS = ("core/coral", "core/adabn", "core/deep-coral", "core/mcc", "core/dann", "core/cdan")
TUNED: Mapping[str, Scalar] = {"freeze_fraction": 0.0, "lr": 1e-3, "lr_ratio": 0.1, "layer_decay": 1.0}


@dataclass(frozen=True)
class Shift:
    """Two domains of one task."""

    modality: str
    backbone: str
    size: int | None
    """Pixels, for images."""
    load: Callable[[Path, np.random.Generator], tuple[Rows, Rows]]
    """From the folder of downloads to all source and target rows, in random order."""
    source: int
    """Labelled rows, those to choose by included."""
    unlabeled: int
    test: int
    epochs: int


def digits(
    _folder: Path, rng: np.random.Generator, *, thick: bool = False, inverted: bool = False, noise: float = 0.0
) -> tuple[Rows, Rows]:
    """Return digits, and other digits with strokes that are thicker, dark on light, or noisy."""
    from scipy.ndimage import grey_dilation
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.kron(found.images / 16.0, np.ones((1, 4, 4)))
    first, second = np.array_split(rng.permutation(len(images)), 2)
    shifted = [grey_dilation(images[i], size=(3, 3)) if thick else images[i] for i in second]
    shifted = [1.0 - x if inverted else x for x in shifted]
    shifted = [x + rng.normal(size=x.shape) * noise for x in shifted]
    parts = [[np.round(255 * np.clip(x, 0, 1)).astype(np.uint8) for x in part] for part in (images[first], shifted)]
    labels = [str(t) for t in found.target]
    return (parts[0], [labels[i] for i in first]), (parts[1], [labels[i] for i in second])


def texts(folder: Path, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Return sentences of film reviews, and tweets, positive and negative."""
    return _table(folder / "movies" / "movies.csv", rng), _table(folder / "tweets" / "tweets.csv", rng)


def drums(folder: Path, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Return drums of three kits, and of all others, five kinds."""
    file = folder / "drums" / "drums.csv"
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    parts = [[r for r in rows if (r["kit"] in KITS) is own] for own in (True, False)]
    first, second = ([part[i] for i in rng.permutation(len(part))] for part in parts)
    told = [([str(file.parent / r["file"]) for r in part], [r["kind"] for r in part]) for part in (first, second)]
    return told[0], told[1]


def _table(file: Path, rng: np.random.Generator) -> Rows:
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    order = rng.permutation(len(rows))
    return [rows[i]["text"] for i in order], [rows[i]["label"] for i in order]


LITE0 = ("image", "packs/efficientnet-lite0", 64)
SHIFTS = {
    "digits, thick": Shift(*LITE0, partial(digits, thick=True), 300, 300, 500, 8),
    "digits, inverted": Shift(*LITE0, partial(digits, inverted=True), 300, 300, 500, 8),
    "digits, all three": Shift(*LITE0, partial(digits, thick=True, inverted=True, noise=0.05), 300, 300, 500, 8),
    "movies to tweets": Shift("text", "packs/minilm-l6", None, texts, 300, 300, 1000, 4),
    "kits A to B": Shift("audio", "packs/speech-embedding", None, drums, 200, 120, 120, 8),
}


def rows_of(shift: Shift, folder: Path, seed: int, *, ceiling: bool, registry: Registry) -> Prepared:
    """Return the prepared rows of a cell: labelled ones of the source, or for the ceiling as many of the target."""
    (xs, ys), (xt, yt) = shift.load(folder, np.random.default_rng(seed))
    test = slice(len(xt) - shift.test, None)
    rest = len(xt) - shift.test
    free = slice(0, min(shift.unlabeled, rest))
    own = (xt[: min(shift.source, rest)], yt[: min(shift.source, rest)]) if ceiling else (xs, ys)
    data = (own[0][: shift.source], own[1][: shift.source])
    given: dict[str, Any] = {"modality": shift.modality, "metric": "accuracy", "seed": seed, "registry": registry}
    return prepare(data, test=(xt[test], yt[test]), unlabeled=None if ceiling else xt[free], **given)


class Cells:
    """The trials of one shift and seed, on one set of labelled rows."""

    def __init__(self, shift: Shift, prepared: Prepared, seed: int, registry: Registry, work: Path) -> None:
        spec = registry.backbone(shift.backbone)
        spec = replace(spec, input=modality(shift.modality).adjusted(spec.input, prepared.profile.facts))
        (self.spec,) = at_sizes([spec], Choice((shift.size,))) if shift.size else [spec]
        assert self.spec.weights is not None
        files = {self.spec.id: str(weights.fetch(self.spec.weights, offline=True))}
        self.context = Context(
            prepared=prepared,
            manifest=registry.manifest(),
            specs={self.spec.id: self.spec},
            weights=files,
            work=str(work),
            seed=seed,
            store=str(work / "store"),
            store_bytes=10**10,
        )
        self.shift, self.registry = shift, registry
        self.worker = Worker(self.context, registry)
        record: Any = self.worker.run(SurveyJob(backbone=self.spec.id, rows=len(prepared.train)))
        if prepared.unlabeled is not None:
            record = self.worker.run(GapJob(backbone=self.spec.id, known=record))
            assert record.gap is not None, record.notes
        self.record: SurveyRecord = record

    @property
    def known(self) -> BackboneSpec:
        """The backbone's card with what the survey found."""
        return with_stages(self.spec, self.record.stages)

    def trial(self, method: str) -> TrialRecord:
        """Train one recipe with the shift's fixed values."""
        strategy = self.registry.strategy(method)
        profile = self.context.prepared.profile
        space = Space(profile, self.context.specs, [strategy], seed=self.context.seed)
        space.frozen = {self.spec.id: self.record.dtype}
        domains = space.domains(strategy, self.known)
        values = {n: v for n, v in {**TUNED, "head_start": True}.items() if n in domains}
        recipe = space.recipe(self.known, strategy, {**values, "epochs": self.shift.epochs})
        job = RungJob(id=method.replace("/", "-"), recipe=recipe, final=True, survey=self.record.features)
        record: Any = self.worker.run(job)
        return record  # type: ignore[no-any-return]


def cell(shift: Shift, method: str, cells: Cells) -> dict[str, Any]:
    """Return one line of the results."""
    record = cells.trial(method)
    line: dict[str, Any] = {"cpu": round(record.cpu_seconds, 2), "reason": record.reason}
    if record.objective is None:
        return line
    network, _ = winning_network(cells.context, cells.registry, record)
    test = evaluated(cells.context, cells.registry, cells.spec, network, record.recipe)
    line |= {"validation": record.objective, "test": test.value, "low": test.low, "high": test.high}
    return line | {"rows": test.rows, "notes": record.notes}


def run(name: str, seed: int, wanted: list[tuple[str, str]], data: Path, registry: Registry, results: Path) -> None:
    """Run the cells of one shift and seed that are missing."""
    shift = SHIFTS[name]
    for arm in dict.fromkeys(arm for arm, _ in wanted):
        prepared = rows_of(shift, data, seed, ceiling=arm == "ceiling", registry=registry)
        with tempfile.TemporaryDirectory() as work:
            cells = Cells(shift, prepared, seed, registry, Path(work))
            for method in (m for a, m in wanted if a == arm):
                line = {"shift": name, "seed": seed, "arm": arm, "method": method, **cell(shift, method, cells)}
                line |= {"gap": to_json(cells.record.gap), "commit": commit(), "machine": machine()}
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")


def table(lines: list[dict[str, Any]]) -> list[str]:
    """Return the score of each method, mean over seeds, and its gain over the source's own fine-tune or head."""
    found = [
        "| shift | method | score on target rows | 95 % | gain, points | source's validation rows | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in SHIFTS:
        ours = [one for one in lines if one["shift"] == name]
        for arm, method in order():
            ones = [o for o in ours if (o["arm"], o["method"]) == (arm, method)]
            scored = [o for o in ones if "test" in o]
            if not scored:
                found += [f"| {name} | {method} | {ones[0]['reason']} | | | | |"] if ones else []
                continue
            plain = {o["seed"]: o["test"] for o in ours if o["arm"] == "source" and o["method"] == beside(method)}
            gains = [100 * (o["test"] - plain[o["seed"]]) for o in scored if o["seed"] in plain]
            ends = " to ".join(f"{statistics.mean(o[end] for o in scored):.3f}" for end in ("low", "high"))
            gain = "" if arm == "source" and method == beside(method) else interval(gains)
            middle = [statistics.mean(o[n] for o in scored) for n in ("test", "validation", "cpu")]
            title = method if arm != "ceiling" else f"{method}, target rows with labels"
            found.append(
                f"| {name} | {title} | {middle[0]:.3f} | {ends} | {gain} | {middle[1]:.3f} | {middle[2]:.0f} |"
            )
    return found


def order() -> list[tuple[str, str]]:
    """Return arms and methods as the table has them."""
    return [
        *(("source", m) for m in SOURCE_ONLY),
        *(("adapted", m) for m in METHODS),
        *(("ceiling", m) for m in SOURCE_ONLY),
    ]


def beside(method: str) -> str:
    """Return the source-only method that a method is compared with: a head, or a fine-tune."""
    return "core/ridge" if method in ("core/ridge", "core/coral", "core/adabn") else "core/full"


def interval(values: list[float]) -> str:
    """Return a mean with its 95 % interval over seeds (Student's t)."""
    from scipy.stats import t

    if len(values) < 2:
        return f"{values[0]:+.1f}" if values else ""
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):+.1f} ± {half:.1f}"


def gaps(lines: list[dict[str, Any]]) -> list[str]:
    """Return what the survey said of each shift, for the first seed."""
    found = ["| shift | two-sample accuracy | AUC | MMD p | validation rows left by weights |", "|---|---|---|---|---|"]
    for name in SHIFTS:
        one = next((o["gap"] for o in lines if o["shift"] == name and o["gap"]), None)
        if one is not None:
            ends = f"{one['accuracy']:.3f} ({one['low']:.3f} to {one['high']:.3f})"
            left = f"{one['effective']:.1f} of {one['validation']}"
            found.append(f"| {name} | {ends} | {one['auc']:.3f} | {one['mmd_p_value']:.3f} | {left} |")
    return found


def main() -> None:
    """Measure every cell, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--shifts", nargs="+", default=list(SHIFTS))
    parser.add_argument("--methods", nargs="+", default=list(dict.fromkeys(method for _, method in order())))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    given, registry = parser.parse_args(), Registry.discover()
    for name, seed in itertools.product(given.shifts, given.seeds):
        done = {(o["arm"], o["method"]) for o in read(given.results) if (o["shift"], o["seed"]) == (name, seed)}
        wanted = [one for one in order() if one not in done and one[1] in given.methods]
        if wanted:
            run(name, seed, wanted, given.data, registry, given.results)
    lines = read(given.results)
    print("\n".join([*gaps(lines), "", *table(lines)]))


def read(results: Path) -> list[dict[str, Any]]:
    """Return the lines of a results file."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


if __name__ == "__main__":
    main()
