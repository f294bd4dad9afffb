"""``fit``, from top to bottom."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotransfer import pool as pools
from autotransfer import weights
from autotransfer.config import Settings, as_names, identity, read_yaml
from autotransfer.data import Prepared, prepare
from autotransfer.data.modalities import modality
from autotransfer.errors import ConfigError, NoTrialSucceededError, NoWorkerError, WeightsError
from autotransfer.executors import executor_of, joined, through_client, workers_of
from autotransfer.gap import rows_hash
from autotransfer.profiles import Profile
from autotransfer.recipes import INPUT_SIZE, spec_id
from autotransfer.registry import Registry
from autotransfer.resources import Share
from autotransfer.runs import RunFolder, grew
from autotransfer.schema import Plan, Refusal, RunRecord
from autotransfer.search import rescue, serial
from autotransfer.search.alone import sharing
from autotransfer.search.candidates import Proposer, Space
from autotransfer.search.forecast import forecasts, foretold, multiply_rate
from autotransfer.search.jobs import Context
from autotransfer.search.ledger import Ledger
from autotransfer.search.memory import Memory
from autotransfer.search.policy import UNLIMITED_SECONDS, Search
from autotransfer.search.refusals import adaptable, merged
from autotransfer.search.storage import patient
from autotransfer.search.telling import Telling
from autotransfer.search.vetting import check_values, vet

if TYPE_CHECKING:
    from autotransfer.model import TransferModel
    from autotransfer.report.judged import HeldOut

log = logging.getLogger(__name__)
Notify = Callable[..., None]
STARTING = {"ray": 8.0, "serial": 1.0}
"""Seconds kept back for stopping the executor and saving the model."""


def silent(event: str, **facts: Any) -> None:
    """Take no notice of events."""


@dataclass
class Ready:
    """Everything that is known before a network is run."""

    settings: Settings
    registry: Registry
    prepared: Prepared
    pool: pools.Pool
    space: Space

    @property
    def refusals(self) -> list[Refusal]:
        """Plugins, backbones and strategies that are not used."""
        own = merged(self.space.refusals, self.space.strategies, self.space.specs)
        return [*self.registry.refusals(), *self.pool.refusals, *own]


def fit(settings: Settings, notify: Notify = silent) -> TransferModel:
    """Return the best fine-tuned model for the data.

    Raises:
        ConfigError, DataError, UnknownNameError: what the caller can mend, before anything is trained.
        NoTrialSucceededError: every trial failed; the text has the reasons.
    """
    with joined(settings.check()):
        return _fit_away(settings, notify) if through_client(settings) else _fit(settings, notify)


def _fit_away(settings: Settings, notify: Notify) -> TransferModel:
    """Read the data here, and have all else done on the cluster's head."""
    from autotransfer import away

    registry = Registry.discover(settings.plugins)
    prepared = _prepared(settings, registry)
    return away.fit(settings, notify, prepared, registry, _name(settings, prepared.profile), hosted)


def hosted(settings: Settings, prepared: Prepared, registry: Registry, notify: Notify) -> None:
    """Fit with the rows and the plugins of a client; the model lies in ``out``."""
    _fit(settings, notify, (prepared, registry))


def _name(settings: Settings, found: Profile) -> str:
    return identity(settings, rows_hash(found.fingerprint, found.unlabeled))


def _fit(settings: Settings, notify: Notify, brought: tuple[Prepared, Registry] | None = None) -> TransferModel:
    began, cpu = time.time(), _cpu_seconds()
    ready = make_ready(settings, notify, brought)
    folder, name = RunFolder(settings.out), _name(settings, ready.prepared.profile)
    with folder.opened(settings, name) as finished:
        if finished is not None and not grew(settings, finished):
            from autotransfer.model import load

            return load(folder.model, plugins=settings.plugins)
        folder.write_json("profile.json", ready.prepared.profile)
        folder.write_json("plugins.json", [i.to_json() for i in ready.registry.plugins()])
        files, loading = _fetched(ready, notify)
        plan = _plan(ready)
        folder.write_json("plan.json", plan)
        search = _search(ready, folder, files, began + loading)
        _run(search, ready, folder, notify)
        if _remembers(ready.settings) and search.status != "interrupted":
            Memory().remember(ready.prepared.profile, search.survey, list(search.records.values()), search.gains())
        run = _told(search, ready, plan, began, cpu, loading)
        last = partial(patient, folder.path)  # nothing is lost for a disk that is full for a while
        last(lambda: folder.write_json("profile.json", run.profile))  # with the gap to the unlabeled rows, if any
        model, held = last(lambda: _finish(search, ready, run, notify))
        if folder.kept:
            model = model.finished(time.time() - began - loading, _cpu_seconds() - cpu + _worker_seconds(search))
            last(lambda: model.save(folder.model))
            _write_report(folder, model.run, held)
            last(lambda: folder.close(settings, name, complete=search.status != "interrupted"))
            notify("saved", path=str(folder.model))
    return model


def profile(settings: Settings) -> Profile:
    """Return what there is to know of the data before a network sees them."""
    return _prepared(settings.check(), Registry.discover(settings.plugins)).profile


def plan(settings: Settings) -> Plan:
    """Return what a fit would do, without downloading or training."""
    return _plan(make_ready(settings.check(), silent))


def resume(path: str | Path, notify: Notify = silent, **flags: Any) -> TransferModel:
    """Go on with the run of a folder, with its own arguments; ``budget`` and ``max_workers`` may change.

    Raises:
        ConfigError: the folder is none, or its data were in memory.
    """
    file = Path(path) / "run.yaml"
    if not file.exists():
        raise ConfigError(f"{str(path)!r} is no run folder: it has no run.yaml")
    arguments = {**read_yaml(file), **flags, "out": str(path)}
    if arguments.get("data") is None:
        raise ConfigError(f"the data of {path} were in memory; call fit(data, out={str(path)!r}) with them to go on")
    return fit(Settings.of(arguments, where=str(file)), notify)


def make_ready(settings: Settings, notify: Notify, brought: tuple[Prepared, Registry] | None = None) -> Ready:
    """Read and profile the data, where a client did not bring them, and choose the pool and the strategies."""
    registry = Registry.discover(settings.plugins) if brought is None else brought[1]
    registry.offline = registry.offline or weights.is_offline(settings.offline)
    strategies = pools.choose_strategies(registry, as_names(settings.strategies) or None)
    prepared = _prepared(settings, registry) if brought is None else brought[0]
    own = [s for s in strategies if not s.baseline]
    if prepared.unlabeled is None and own and all(s.unlabeled for s in own):
        names = ", ".join(s.id for s in own)
        raise ConfigError(f"strategies are {names}, which adapt to unlabeled rows: give these as unlabeled=, or others")
    notify("profile", profile=prepared.profile)
    chosen = pools.choose(registry, prepared.profile.modality, as_names(settings.backbones) or None, settings.offline)
    if not any(s.transfer for s in chosen.specs):
        raise ConfigError(_no_backbone(prepared.profile, [*registry.refusals(), *chosen.refusals]))
    kind, facts = modality(prepared.profile.modality), prepared.profile.facts
    chosen.specs = [replace(s, input=kind.adjusted(s.input, facts)) for s in chosen.specs]
    given = settings.domains()
    if INPUT_SIZE in given:
        chosen.specs = pools.at_sizes(chosen.specs, given[INPUT_SIZE])
    space = Space(
        profile=prepared.profile,
        specs={s.id: s for s in chosen.specs},
        strategies=strategies,
        given=given,
        seed=settings.seed,
        threads=max(1, int(settings.share()["cpus"])),
    )
    check_values(given)
    vet(space)
    space.unknown_values()
    ready = Ready(settings, registry, prepared, chosen, space)
    notify("pool", ids=[s.id for s in chosen.specs], refusals=ready.refusals)
    return ready


def _prepared(settings: Settings, registry: Registry) -> Prepared:
    wanted = ("target", "task", "modality", "metric", "validation", "test", "groups", "unlabeled", "seed")
    return prepare(settings.data, registry=registry, **{n: getattr(settings, n) for n in wanted})


def _no_backbone(found: Profile, refusals: list[Refusal]) -> str:
    lines = "\n".join(f"  - {r.name}: {r.reason}" for r in refusals) or "  (no plugin offers any)"
    return (
        f"no {found.modality} backbone can be used:\n{lines}\n"
        "fetch weights where there is a network (autotransfer weights fetch ID), or name others with backbones="
    )


def _fetched(ready: Ready, notify: Notify) -> tuple[dict[str, str], float]:
    """Return the paths of all weights and the seconds spent on downloads; what cannot be had is left out."""
    began, files = time.time(), dict[str, str]()
    for spec in list(ready.pool.specs):
        if spec.weights is None:
            continue
        if weights.available(spec.weights, ready.settings.offline):
            notify("download", id=spec.id, bytes=spec.weights.bytes or 0)
        try:
            files[spec.id] = str(weights.fetch(spec.weights, offline=ready.settings.offline))
        except WeightsError as error:
            ready.pool.specs.remove(spec)
            ready.pool.refusals.append(Refusal(name=spec.id, reason=str(error)))
    ready.space.specs = {s.id: s for s in ready.pool.specs}
    if not any(s.transfer for s in ready.pool.specs):
        raise ConfigError(_no_backbone(ready.prepared.profile, ready.refusals))
    return files, time.time() - began


def _plan(ready: Ready) -> Plan:
    transferring = [s for s in ready.pool.specs if s.transfer]
    largest = max(transferring, key=lambda s: (s.params or 0, s.id)).id
    # Stages that are traced are not known yet, so nothing may be refused for want of them.
    space = replace(ready.space, refused={}, specs={s.id: s for s in ready.pool.specs})
    proposer = Proposer(space, [], [s.id for s in transferring], largest)
    made = Plan(
        backbones=tuple(s.id for s in ready.pool.specs),
        candidates=(*proposer.baselines(), *proposer.guaranteed()),
        refusals=(*ready.refusals, *merged(space.unsuited(), space.strategies, space.specs)),
        download_bytes=ready.pool.download_bytes,
        licences={s.id: s.licence for s in ready.pool.specs},
        notes=("the survey may choose other backbones for the guaranteed candidates", *adaptable(space)),
    )
    known = {} if ready.settings.memory is False else Memory().speeds()
    found = forecasts(ready.prepared.profile, ready.pool.specs, known, multiply_rate())
    return foretold(made, found, ready.settings.limit, workers_of(ready.settings))


def _search(ready: Ready, folder: RunFolder, files: Mapping[str, str], began: float) -> Search:
    settings, limit = ready.settings, ready.settings.limit
    given = settings.resources or {}
    step = float(given["step_seconds"]) if "step_seconds" in given else _patience(limit.seconds)
    context = Context(
        prepared=ready.prepared,
        manifest=ready.registry.manifest(),
        specs={s.id: s for s in ready.pool.specs},
        weights=files,
        work=str(folder.work.resolve()),
        seed=settings.seed,
        threads=ready.space.threads,
        store=str(weights.cache_folder() / "store") if settings.share()["disk_gb"] else "",
        store_bytes=int(settings.share()["disk_gb"] * 1e9),
        step_seconds=step,
    )
    seconds = limit.seconds if limit.trials is None and limit.seconds else UNLIMITED_SECONDS
    kept_back = min(STARTING[executor_of(settings)], 0.1 * seconds)
    deadline = began + seconds - kept_back if limit.trials is None else float("inf")
    past = Memory().recall(ready.prepared.profile) if _remembers(settings) else []
    return Search(context, ready.space, limit, ready.registry, deadline, workers_of(settings), past)


def _remembers(settings: Settings) -> bool:
    return settings.limit.trials is None if settings.memory is None else settings.memory


def _patience(seconds: float | None) -> float:
    return 300.0 if seconds is None else min(300.0, max(30.0, seconds / 4))


def _run(search: Search, ready: Ready, folder: RunFolder, notify: Notify) -> None:
    """Run the policy; Ctrl-C ends the search and leaves what was found."""
    settings = ready.settings
    ledger = Ledger(folder.ledger, folder.work)
    notify = Telling(notify, len(search.context.specs), search.budget.trials)
    try:
        if executor_of(settings) == "serial":
            serial.run(search.jobs(), search.context, ledger, notify, ready.registry)
        else:
            from autotransfer.search import ray_tune

            ray_tune.run(
                search.jobs(),
                search.context,
                ledger,
                notify,
                workers=search.workers,
                share=Share.of(settings.resources),
                joined=settings.address is not None,
                offline=ready.registry.offline,
                deadline=search.deadline,
            )
    except KeyboardInterrupt:
        search.status = "interrupted"
        if search.leader() is None:
            serial.run(rescue.stopped(search, ledger.records.values()), search.context, ledger, notify, ready.registry)
        if search.leader() is None:
            raise
    except NoWorkerError as error:
        if search.leader() is None:
            raise
        search.status = "budget"
        search.notes.append(f"the best so far was kept: {error}")
    serial.run(rescue.again(search), search.context, ledger, notify, ready.registry)
    if search.leader() is None:
        reasons = [f"  - {r.backbone}: {r.reason}" for r in search.survey if r.status == "failed"]
        reasons += [f"  - {r.id} {spec_id(r.recipe)} {r.recipe.strategy}: {r.reason}" for r in search.records.values()]
        raise NoTrialSucceededError("no trial succeeded:\n" + "\n".join(reasons))


def _told(search: Search, ready: Ready, plan: Plan, began: float, cpu: float, loading: float) -> RunRecord:
    leader = search.leader()
    assert leader is not None
    unit = search.unit_seconds(spec_id(leader.recipe))
    names = ("autotransfer", "torch", "timm", "transformers", "ray", "scikit-learn")
    return RunRecord(
        profile=search.space.known,
        plan=replace(plan, backbones=tuple(s.id for s in ready.pool.specs), refusals=tuple(ready.refusals)),
        survey=tuple(search.survey),
        trials=tuple(search.records.values()),
        winner=leader.id,
        status=search.status,
        sharing=sharing(search),
        seconds=time.time() - began - loading,
        cpu_seconds=_cpu_seconds() - cpu + _worker_seconds(search),
        download_seconds=loading,
        unit_cpu_seconds=unit if unit else None,
        workers=search.workers,
        executor=executor_of(ready.settings),
        seed=ready.settings.seed,
        notes=(*search.notes, *filter(None, [search.board.chosen()])),
        criterion=search.board.criterion.text,
        versions={n: _version(n) for n in names} | {"python": platform.python_version()},
    )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cpu_seconds() -> float:
    return time.process_time()


def _worker_seconds(search: Search) -> float:
    """Return CPU seconds of workers in other processes; those of this process are counted already."""
    if search.workers == 1 and not any(r.worker.startswith("pid") for r in search.records.values()):
        return 0.0
    return sum(r.cpu_seconds for r in search.survey) + sum(r.cpu_seconds for r in search.records.values())


def _finish(search: Search, ready: Ready, run: RunRecord, notify: Notify) -> tuple[TransferModel, HeldOut]:
    """Build the winner, train it again where asked, score the held-out rows this once, and give its answers on them."""
    from autotransfer.calibration import calibrate
    from autotransfer.finish import TRAINED_AGAIN, answered, baseline_evaluation, scored, winning_network
    from autotransfer.model import TransferModel

    leader = search.leader()
    assert leader is not None
    notify("finish", text=f"scoring {len(ready.prepared.test)} held-out rows")
    network, state = winning_network(search.context, ready.registry, leader, refit=ready.settings.refit)
    told = [TRAINED_AGAIN] if ready.settings.refit else calibrate(search.context, ready.registry, leader, network)
    spec = search.context.specs[spec_id(leader.recipe)]
    held = answered(search.context, ready.registry, spec, network, leader.recipe)
    test = scored(held, search.context.seed)
    baseline = baseline_evaluation(search, ready.registry, leader, test)
    model = TransferModel(
        network=network,
        task=ready.prepared.task,
        spec=replace(spec, id=leader.recipe.backbone),
        recipe=leader.recipe,
        run=replace(run, test=test, baseline=baseline, notes=(*run.notes, *(f"the winner: {t}" for t in told))),
        registry=ready.registry,
        fitted=state,
        assets=weights.assets_folder(search.context.weights.get(spec.id)),
    )
    return model, held


def _write_report(folder: RunFolder, run: RunRecord, held: HeldOut) -> None:
    """Write the page of a run beside its model, which is not lost where that fails."""
    from autotransfer.report.page import REPORT, page

    try:
        (folder.path / REPORT).unlink(missing_ok=True)  # that of an older model, where this one's fails
        patient(folder.path, lambda: folder.write(REPORT, page(run, held)))
    except Exception as error:  # rows are anybody's, and so is the disk
        log.warning("%s was not written: %s: %s", folder.path / REPORT, type(error).__name__, error)
