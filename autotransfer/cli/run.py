"""The verbs that search: fit, resume, profile, plan, demo."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotransfer.cli.flags import fit_flags, settings_of
from autotransfer.cli.verbs import INTERRUPTED, Plugins, Said, verb

if TYPE_CHECKING:
    from autotransfer.model import TransferModel
    from autotransfer.schema import Plan

Data = Annotated[str | None, typer.Argument(help="Labelled data: a folder of class folders, or a table; also by URL.")]
Config = Annotated[Path | None, typer.Option("--config", help="A run file in YAML; flags win over it.")]


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    flags = fit_flags()
    verb(app, "fit", flags=flags)(fit)
    verb(app, "resume")(resume)
    verb(app, "profile", flags=flags)(profile)
    verb(app, "plan", flags=flags)(plan)
    verb(app, "demo")(demo)


def fit(data: Data = None, config: Config = None, **flags: Any) -> Said:
    """Search and train; keep the best fine-tuned model in the run's folder."""
    settings = settings_of(data, config, flags)
    if settings.out is None:
        from dataclasses import replace

        settings = replace(settings, out=free_folder(settings.data))
    from autotransfer import engine
    from autotransfer.report.progress import progress

    with progress(budget=settings.limit.seconds) as shown:
        return told(engine.fit(settings, shown), Path(str(settings.out)))


def resume(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of an earlier run.")],
    plugins: Plugins = None,
    budget: Annotated[str | None, typer.Option(help="A new budget, counted from now.")] = None,
    trials: Annotated[int | None, typer.Option(help="A new number of trials, all parts together.")] = None,
    max_workers: Annotated[int | None, typer.Option(help="Trials that may run at the same time.")] = None,
    executor: Annotated[str | None, typer.Option(help="ray or serial.")] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster: auto, host:port or ray://host:port.")] = None,
) -> Said:
    """Go on with a run that was interrupted, or whose budget grew."""
    from autotransfer import engine
    from autotransfer.budget import Budget
    from autotransfer.report.progress import progress

    given: dict[str, Any] = {
        "budget": budget,
        "trials": trials,
        "max_workers": max_workers,
        "executor": executor,
        "address": address,
        "plugins": plugins,
    }
    changes = {n: v for n, v in given.items() if v is not None}
    if budget is not None or trials is not None:  # one takes the place of the other
        changes |= {"budget": budget, "trials": trials}
    with progress(budget=Budget.parse(budget).seconds) as shown:
        return told(engine.resume(folder, shown, **changes), folder)


def profile(data: Data = None, config: Config = None, **flags: Any) -> Said:
    """Say what there is to know of the data, before a network sees them."""
    settings = settings_of(data, config, flags)
    from autotransfer import engine
    from autotransfer.codec import to_json
    from autotransfer.report.words import columns, data_line

    found = engine.profile(settings)
    counts = [{"class": n, "rows": c} for n, c in found.counts.items()]
    counts += [{"target": t.name, "class": n, "rows": c} for t in found.each for n, c in t.counts.items()]
    facts = [{"fact": n, "value": v} for n, v in found.facts.items()]
    parts = [data_line(found), *(i.text for i in found.issues), "", *columns(counts), "", *columns(facts)]
    return Said(to_json(found), "\n".join(parts))


def plan(data: Data = None, config: Config = None, **flags: Any) -> Said:
    """Say what a fit would do: candidates, refusals, downloads, licences. Nothing is downloaded or trained."""
    settings = settings_of(data, config, flags)
    from autotransfer import engine
    from autotransfer.codec import to_json

    found = engine.plan(settings)
    return Said(to_json(found), plan_text(found))


def demo(
    out: Annotated[Path | None, typer.Option(help="The run's folder.")] = None,
) -> Said:
    """Run a real search on real images, on this machine, in under two minutes."""
    from autotransfer import demo as demonstration

    folder = out or free_folder("demo")
    return told(demonstration.run(out=folder), folder)


def free_folder(data: Any) -> Path:
    """Return ``runs/NAME`` after the data's name, or with the first number that is free."""
    name = Path(str(data)).resolve().stem if isinstance(data, (str, Path)) else "run"
    names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
    return next(p for n in names if not (p := Path("runs") / n).exists())


def told(model: TransferModel, out: Path) -> Said:
    """Return what a finished fit has to say."""
    from autotransfer.codec import to_json
    from autotransfer.report.page import report_beside
    from autotransfer.report.text import share, winner_of
    from autotransfer.report.words import metric_of

    run = model.run
    won, metric = winner_of(run), run.profile.metric
    body = {
        "out": out,
        "model": model.path,
        "report": report_beside(model.path),
        "backbone": model.recipe.backbone,
        "strategy": model.recipe.strategy,
        "recipe": to_json(model.recipe),
        "task": run.profile.task,
        "metric": metric,
        "validation": metric_of(won.objective, metric) if won is not None else None,
        "test": run.test.value if run.test is not None else None,
        "test_interval": [run.test.low, run.test.high] if run.test is not None else None,
        "test_rows": run.test.rows if run.test is not None else 0,
        "baseline": run.baseline.value if run.baseline is not None else None,
        "scores": to_json(run.test.scores) if run.test is not None else {},
        **({"sharing": to_json(run.sharing)} if run.sharing else {}),
        "trials": len(run.trials),
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "share_of_one_fine_tune": share(run),
        "unlabeled": to_json(run.profile.unlabeled),
        "criterion": run.criterion or None,
        "status": run.status,
    }
    return Said(body, model.report(), INTERRUPTED if run.status == "interrupted" else 0)


def plan_text(found: Plan) -> str:
    """Return a plan for people."""
    from autotransfer.report.words import clock, columns, recipe_line, refused, size

    lines = [f"backbones  {', '.join(found.backbones)}", f"downloads  {size(found.download_bytes)}"]
    if found.seconds is not None:
        lines.append(f"time       {clock(found.seconds)} predicted")
    if found.expected_trials is not None:
        lines.append(f"trials     about {found.expected_trials:.0f} in the budget")
    known = {f.backbone: f for f in found.forecasts}
    rows = []
    for id in found.backbones:
        row = {"backbone": id, "licence": found.licences.get(id, "unknown")}
        row |= {"survey": "-", "one fine-tune": "-", "memory": "-", "disk": "-", "known from": "-"}
        if (told := known.get(id)) is not None:
            row |= {"memory": size(told.memory_bytes), "disk": size(told.disk_bytes)}
            row["known from"] = "an earlier run" if told.measured else "its card"
            if told.survey_seconds is not None and told.training_seconds is not None:
                row |= {"survey": clock(told.survey_seconds), "one fine-tune": clock(told.training_seconds)}
        rows.append(row)
    lines += ["", *columns(rows), "", "candidates"]
    for candidate in found.candidates:
        cost = f" [{clock(candidate.seconds)}]" if candidate.seconds is not None else ""
        lines.append(f"  {recipe_line(candidate.recipe)}: {candidate.reason}{cost}")
    if found.refusals:
        lines += ["", "not used", *(f"  {line}" for line in refused([(r.name, r.reason) for r in found.refusals]))]
    return "\n".join([*lines, *(["", *found.notes] if found.notes else [])])
