"""The verbs that use what a search left: predict, evaluate, export, leaderboard, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotransfer.cli.verbs import WRONG, Plugins, Said, verb
from autotransfer.errors import DataError, ModelError

if TYPE_CHECKING:
    from autotransfer.model import TransferModel
    from autotransfer.schema import RunRecord

Model = Annotated[Path, typer.Argument(help="A model folder, or a run folder that holds one.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a model folder.")]


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    verb(app, "predict")(predict)
    verb(app, "evaluate")(evaluate)
    verb(app, "export")(export)
    verb(app, "leaderboard")(leaderboard)
    verb(app, "report")(report)


def predict(
    model: Model,
    data: Annotated[list[str], typer.Argument(help="Files, texts, folders of files, or a table.")],
    plugins: Plugins = None,
) -> Said:
    """Answer for each row, in order; a row that cannot be read has its reason, the others their answers.

    A model of several targets answers with a column for each.
    """
    from autotransfer.model import load

    loaded = load(model, plugins or ())
    rows = [row for source in data for row in _answers(loaded, source, alone=len(data) == 1)]
    failed = [r for r in rows if "error" in r]
    targets = list(loaded.run.profile.targets)
    several = len(targets) > 1
    lines = ["\t".join(["row", *targets])] if several else []
    lines += ["\t".join(_cells_of(r, targets) if several else _cells(r)) for r in rows]
    body = {"model": loaded.path, "classes": loaded.classes, "predictions": rows, "failed": len(failed)}
    return Said(body, "\n".join(lines), WRONG if failed and len(failed) == len(rows) else 0)


def evaluate(
    model: Model,
    data: Annotated[str, typer.Argument(help="Labelled data that took no part in training.")],
    target: Annotated[
        str | None, typer.Option(help="Name of the target column, of several with commas; as in training.")
    ] = None,
    plugins: Plugins = None,
) -> Said:
    """Score a model on labelled data; of data with a test part, that part alone."""
    from autotransfer.model import load
    from autotransfer.report.several import evaluation_lines
    from autotransfer.report.text import evaluation
    from autotransfer.report.words import columns

    loaded = load(model, plugins or ())
    found, left_out = loaded.evaluate(data, target, on_error="report")
    scores: dict[str, Any] = dict(found.scores if found.each else found.scores[loaded.task.name])
    body = {
        "model": loaded.path,
        "metric": found.metric,
        "value": found.value,
        "interval": [found.low, found.high],
        "rows": found.rows,
        "scores": scores,
        "left_out": left_out,
    }
    if found.each:
        body["intervals"] = {n: [own.low, own.high] for n, own in found.each.items()}
        values = [{"target": n, "metric": m, "value": v} for n, own in scores.items() for m, v in own.items()]
    else:
        values = [{"metric": n, "value": v} for n, v in scores.items()]
    left = [f"left out: {n}: {why}" for n, why in left_out.items()]
    lines = [evaluation(found), *evaluation_lines(found, None), "", *columns(values), *left]
    return Said(body, "\n".join(lines))


def export(
    model: Model,
    to: Annotated[str, typer.Option(help="The format: onnx.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="The file to write; MODEL.onnx beside the model folder.")] = None,
    plugins: Plugins = None,
) -> Said:
    """Write a model's network for other runtimes, checked against the model to 1e-4."""
    from autotransfer.export import note_of
    from autotransfer.model import load
    from autotransfer.model_folder import find

    where = find(model)
    path = load(model, plugins or ()).export(out or where.with_name(f"{where.name}.onnx"), to)
    note = note_of(path)
    told = _json(note)
    checked = told["checked"]
    takes, gives = (", ".join(f"{i['name']} {i['shape']}" for i in told[n]) for n in ("inputs", "outputs"))
    lines = [
        f"saved    {path}   how its inputs are prepared: {note}",
        f"takes    {takes}",
        f"gives    {gives}",
        f"checked  {checked['rows']} rows by {checked['runtime']}: off by {checked['largest_difference']:.1e} at most",
    ]
    return Said({"path": path, "note": note, **told}, "\n".join(lines))


def leaderboard(folder: Run) -> Said:
    """List every trial, best first, and every backbone that was not tried, with the reason."""
    from autotransfer.codec import to_json
    from autotransfer.report.leaderboard import rows_of
    from autotransfer.report.words import columns

    record = _record(folder)
    rows = rows_of(record) if record is not None else _unfinished(folder)
    body: dict[str, Any] = {"run": folder, "rows": rows}
    if record is not None and record.profile.unlabeled is not None:
        body |= {"unlabeled": to_json(record.profile.unlabeled), "criterion": record.criterion}
    return Said(body, "\n".join(columns(rows)) or "nothing was tried yet")


def report(folder: Run) -> Said:
    """Give the account of a finished run: data, what was tried, what won, how good it is, what it cost."""
    from autotransfer.codec import to_json
    from autotransfer.model_folder import find, read_note
    from autotransfer.report.page import report_beside
    from autotransfer.report.text import render

    record = _record(folder)
    if record is None:
        raise ModelError(f"the run in {folder} is not over; go on with: autotransfer resume {folder}")
    model = find(folder)
    plugin = "FILE" if read_note(model).plugin.sha256 else ""  # where the file lies is not kept
    page = report_beside(model)
    return Said({**to_json(record), "report": page}, render(record, saved=str(model), plugin=plugin, page=page))


def _answers(model: TransferModel, source: str, *, alone: bool) -> list[dict[str, Any]]:
    """Return the answers for a source; one that cannot be read is a row with its reason where there are others."""
    try:
        rows = model.predict_rows(source)
        return [{**rows[0], "row": source}] if [r["row"] for r in rows] == ["row 0"] else rows
    except DataError as error:
        if alone:
            raise
        return [{"row": source, "error": str(error)}]


def _cells(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["row"], "-", f"error: {row['error']}"]
    chance = [f"{row['probability']:.4f}"] if "probability" in row else []
    value = row["prediction"]
    return [row["row"], ", ".join(map(str, value)) if isinstance(value, list) else str(value), *chance]


def _cells_of(row: dict[str, Any], targets: list[str]) -> list[str]:
    """Return a row's name and its answer for each of several targets."""
    if "error" in row:
        return [row["row"], *["-"] * len(targets), f"error: {row['error']}"]
    return [row["row"], *(_cells({"row": "", "prediction": row["prediction"][n]})[1] for n in targets)]


def _record(folder: Path) -> RunRecord | None:
    """Return a finished run's record, None for a run that is not over.

    Raises:
        ModelError: there is neither a run nor a model.
    """
    from autotransfer.codec import from_json
    from autotransfer.model_folder import HISTORY, find
    from autotransfer.schema import RunRecord

    file = find(folder) / HISTORY
    if file.is_file():
        return from_json(RunRecord, _json(file))
    if (folder / "run.yaml").is_file():
        return None
    raise ModelError(f"{folder} is neither a run folder nor a model folder; wanted what autotransfer fit wrote")


def _unfinished(folder: Path) -> list[dict[str, Any]]:
    from autotransfer.codec import from_json
    from autotransfer.profiles import Profile
    from autotransfer.report.leaderboard import latest_records, rows
    from autotransfer.schema import Plan

    if not all((folder / n).is_file() for n in ("profile.json", "plan.json", "trials.jsonl")):
        return []
    trials, survey = latest_records(folder / "trials.jsonl")
    profile = from_json(Profile, _json(folder / "profile.json"))
    refusals = from_json(Plan, _json(folder / "plan.json")).refusals
    return rows(trials, survey, refusals, profile.metric, each=profile.each)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is damaged: {error}") from error
