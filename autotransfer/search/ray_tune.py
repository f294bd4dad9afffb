"""The default executor: Ray Tune.

One Tune trial is one job. The Searcher hands out the jobs of the policy's current generation and, once all
of its records are in, asks the policy for the next; the scheduler is first come, first served. Where there are several
workers a Tune trial is a ticket for one of these jobs: the worker that has it takes the one whose data its process or
its node has, and waits while there is none (Tune ends an idle actor beside a busy one, with all that it has loaded).
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import NoopStopper

from autotransfer.codec import from_json, to_json
from autotransfer.errors import ClusterMismatchError, SearchError, StorageError
from autotransfer.resources import Share
from autotransfer.schema import SurveyRecord, TrialRecord
from autotransfer.scratch import scratch
from autotransfer.search import storage
from autotransfer.search.cluster import started, travelling
from autotransfer.search.desk import Desk, offer_of
from autotransfer.search.jobs import Context, GapJob, Generation, Job, Record, RungJob, SurveyJob
from autotransfer.search.ledger import Ledger
from autotransfer.search.locality import FarDesk, Neighbours
from autotransfer.search.nodes import at_home, registry
from autotransfer.search.placement import Waiting, nodes, placed
from autotransfer.search.policy import Notify
from autotransfer.search.quiet import QUIET, environment, hushed
from autotransfer.search.trial import Worker, failed
from autotransfer.search.watchdog import Watchdog, take_note

_ENDS: Mapping[str, type[SearchError]] = {"mismatch": ClusterMismatchError, "storage": StorageError}
"""What a worker may say in place of a record, and what ends the search then."""
_KINDS: Mapping[str, Any] = {"survey": SurveyJob, "gap": GapJob, "rung": RungJob}
RETRIES, STARTS = 2, 5
"""Times that a job is given to another worker after its own died, and times that one may die before it begins."""


class Visit(tune.Trainable):
    """A long-lived worker; each Tune trial gives it one job."""

    def setup(
        self,
        config: dict[str, Any],
        context: Context | None = None,
        home: str = "",
        sources: Mapping[str, bytes] | None = None,
        offline: bool = False,
        desk: FarDesk | None = None,
    ) -> None:
        """Make the worker, once a process.

        Args:
            config: of the first trial.
            context: what workers share.
            home: id of the driver's node, on a cluster; empty: this is it.
            sources: of single-file plugins.
            offline: weights may not be fetched.
            desk: where a ticket is turned into a job; None: tickets come with their job.
        """
        assert context is not None
        away = bool(home) and ray.get_runtime_context().get_node_id() != home
        self.context = at_home(context, offline) if away else context
        self.sources = sources or {}
        self.name = f"pid {os.getpid()}" + f" on {platform.node()}" * away
        self.worker: Worker | None = None
        self.watchdog = Watchdog(self.context.step_seconds)
        self.desk, self.shared = desk, bool(home)
        self.config = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next job; the worker keeps its models."""
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Run the job and end the trial."""
        text = self.config["job"] or self._taken()
        if not text:
            return {"done": True, "nothing": True}
        job = _job(text)
        try:
            note, work = note_of(self.context, job), Path(self.context.work)
            storage.patient(work, lambda: self.watchdog.watch(note))
            if self.worker is None:
                plugins = registry(self.context.manifest, self.sources)
                neighbours = Neighbours(self.desk) if self.desk and self.shared else None
                self.worker = Worker(self.context, plugins, self.watchdog.tick, self.name, neighbours)
            record = self.worker.run(job)
        except ClusterMismatchError as error:  # of a node that came later: no trial can succeed there
            return {"done": True, "mismatch": str(error)}
        except StorageError as error:
            return {"done": True, "storage": str(error)}
        finally:
            self.watchdog.rest()
        return {"done": True, "key": job.key, "record": json.dumps(to_json(record))}

    def _taken(self) -> str | None:
        assert self.desk is not None
        return self.desk.wait(self.config["ticket"], ray.get_runtime_context().get_node_id(), self.name)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write nothing: checkpoints are ours, and a dict would become a pickle."""

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        """Read nothing, for the same reason."""


class PolicySearcher(Searcher):
    """Hands out the policy's jobs, generation by generation."""

    def __init__(
        self, jobs: Generation, context: Context, ledger: Ledger, notify: Notify, desk: Desk | FarDesk | None = None
    ) -> None:
        super().__init__(metric="done", mode="max")
        self.jobs = jobs
        self.context = context
        self.ledger = ledger
        self.notify = notify
        self.desk = desk or Desk()
        self.batch: list[Job] = []
        self.records: dict[str, Record] = {}
        self.tickets: list[str] = []
        """Tune trials that run, by their ids."""
        self.wanted = 0
        """Workers that there was work for at one time; those that wait for a job count."""
        self.deaths: dict[str, list[bool]] = {}
        """By key of a job, of each worker that died: whether it had begun the job."""
        self.said: dict[str, str] = {}
        """What Ray says of the worker that a Tune trial lost, by the trial's id."""
        self.over = False
        self.error: BaseException | None = None
        self._next(first=True)

    def suggest(self, trial_id: str) -> Any:
        """Return the next job's config, None while others of its generation run, FINISHED at the end."""
        if self.over:
            return Searcher.FINISHED
        if len(self.tickets) >= (self.wanted if self.desk.late else len(self._open())):
            return None
        self.tickets.append(trial_id)
        self._offer()
        return {"job": "" if self.desk.late else self.desk.take(trial_id), "ticket": trial_id}

    def _offer(self) -> None:
        """Lay what has no record on the desk; at the end nothing, so that nobody waits."""
        wanted = [] if self.over else self._open()
        rows = len(self.context.prepared.train) if wanted else 0
        taken = self.desk.offer([offer_of(j, _text(j), rows) for j in wanted], [] if self.over else self.tickets)
        begun = [j for j in wanted if j.key in taken.values()]
        following = [j for j in wanted if j not in begun]
        if shown := [j.title for j in (*begun, *following)[: len(self.tickets)]]:
            self.notify("running", jobs=shown)

    def _open(self) -> list[Job]:
        """Return the jobs of this generation that have no record."""
        return list({j.key: j for j in self.batch if j.key not in self.records}.values())

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: a job has one result, its last."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Keep the record; a job whose worker died is given to another one, a few times."""
        if trial_id not in self.tickets or self.over:  # a record that came before, or too late
            return
        self.tickets.remove(trial_id)
        try:
            for kind, raised in _ENDS.items():
                if result and kind in result:
                    raise raised(str(result[kind]))
            if error:
                self.desk.take(trial_id)  # a worker that died before it took a job stands for the next one
            key = (result or {}).get("key") or self.desk.taken(trial_id)
            job = next((j for j in self._open() if j.key == key), None)
            if job is None:  # another worker has done it, or there was nothing to do
                self.wanted = max(1, self.wanted - error)  # else one that cannot live would be started for ever
                return
            if error or not result or "record" not in result:
                self._lost(job, self.said.pop(trial_id, ""))
                return
            kind_of = TrialRecord if isinstance(job, RungJob) else SurveyRecord
            self._add(job, cast("Record", from_json(kind_of, json.loads(result["record"]))))
        except Exception as fault:  # Tune would swallow it, or end with it: it is raised again after the run
            self._end(fault)

    def _add(self, job: Job, record: Record) -> None:
        self.ledger.add(job, record)
        self._keep(job, record, again=False)

    def _lost(self, job: Job, said: str) -> None:
        """Give the job of a dead worker to another one; where that cannot help, it has failed."""
        where = take_note(note_of(self.context, job))
        deaths = self.deaths.setdefault(job.key, [])
        deaths.append(where is not None)
        if where:
            silent = f"nothing came for {self.context.step_seconds:g} s, so its worker was killed"
            self._add(job, failed(job, f"it hung: {silent} ({where})"))
        elif sum(deaths) > RETRIES:
            why = "out of memory, or a crash in native code"
            self._add(job, failed(job, f"its worker process died {sum(deaths)} times: {why}{said}"))
        elif len(deaths) > STARTS + RETRIES:
            self._add(job, failed(job, f"no worker began it in {len(deaths)} tries{said}"))
        else:
            self.notify("waiting", text=f"another worker for {job.title}: its own died{said}")

    def _keep(self, job: Job, record: Record, *, again: bool) -> None:
        self.records[job.key] = record
        self.notify("record", record=record, again=again)
        if not self._open():
            self._next()

    def _next(self, first: bool = False) -> None:
        """Ask the policy for the next generation; jobs whose record is in the ledger are not run again."""
        try:
            storage.wait(Path(self.context.work))  # the policy reads and removes files there
            while True:
                self.batch = next(self.jobs) if first else self.jobs.send([self.records[j.key] for j in self.batch])
                first, self.records = False, {}
                for job in self.batch:
                    if (record := self.ledger.find(job)) is not None:
                        self.records[job.key] = record
                        self.notify("record", record=record, again=True)
                if self._open():
                    self.wanted = max(self.wanted, len(self._open()))
                    self._offer()
                    return
        except StopIteration:
            self._end()
        except Exception as error:  # Tune would swallow it: it is raised again after the run
            self._end(error)

    def _end(self, error: BaseException | None = None) -> None:
        self.over, self.error = True, error
        self._offer()

    def __deepcopy__(self, memo: dict[int, Any]) -> PolicySearcher:
        """Return itself: a running policy cannot be copied."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Return an empty searcher: what Tune writes of its tuner is never read again."""
        return Searcher, ()

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: a run goes on from our ledger."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing, for the same reason."""


class Listening(FIFOScheduler):
    """First come, first served; hears what Ray says of a worker that died, just before the searcher is asked."""

    def __init__(self, searcher: PolicySearcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.searcher = searcher

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Keep what Tune has written of the error."""
        with contextlib.suppress(OSError, TypeError):
            self.searcher.said[trial.trial_id] = _told(Path(trial.error_file).read_text(encoding="utf-8"))

    def __reduce__(self) -> tuple[Any, ...]:
        """Return a plain scheduler: what Tune writes of its tuner is never read again."""
        return FIFOScheduler, ()


class Ended(tune.Stopper):
    """Ends all trials as soon as the search is over, or cannot go on."""

    def __init__(self, searcher: PolicySearcher) -> None:
        self.searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Let each trial come to its own end."""
        return False

    def stop_all(self) -> bool:
        """Return whether the search has ended: a straggler whose job another worker has done is not waited for."""
        return self.searcher.over

    def __reduce__(self) -> tuple[Any, ...]:
        """Return a stopper of nothing: what Tune writes of its tuner is never read again."""
        return NoopStopper, ()


def note_of(context: Context, job: Job) -> Path:
    """Return the file by which the driver learns what became of a job whose worker died."""
    return context.path(f"watchdog-{job.key}.txt")


def _told(text: str) -> str:
    """Return what Ray's error says beyond that a process died."""
    if "node has died" in text or "node was terminated" in text:
        return " with its node"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    short = [line for line in lines if "running low on memory" in line]
    if short or not lines or "unexpectedly exits" in text or "unavailable" in text:
        return f" ({short[0][:200]})" if short else ""
    return f" ({lines[-1][:200]})"


def run(
    jobs: Generation,
    context: Context,
    ledger: Ledger,
    notify: Notify,
    workers: int,
    share: Share,
    *,
    joined: bool = False,
    offline: bool = False,
    deadline: float = float("inf"),
) -> None:
    """Run all jobs of a policy through Ray Tune.

    Args:
        jobs: the policy's generator.
        context: what workers share.
        ledger: of the run.
        notify: told of each job and record.
        workers: jobs at once.
        share: what one worker takes.
        joined: the caller named a cluster; its nodes are asked what they have, even where it is one.
        offline: nodes may not fetch weights.
        deadline: ``time.time()`` at which the last job must end.

    Raises:
        SearchError: Ray cannot be started, or no node has what one worker needs.
        NoWorkerError: none came free in time.
        ClusterMismatchError: nodes lack what the driver has.
        KeyboardInterrupt: as it came; what was finished is in the ledger and known to the policy.
    """
    with started(workers, share), environment(QUIET), hushed():
        more = travelling(context, share, offline) if joined or len(nodes()) > 1 else {}
        # Tune's folder is for its driver alone: other nodes need it for checkpoints and artifacts, and there are none.
        # So it lies outside the run, whose folder may be gone for a while.
        with scratch("autotransfer-tune-") as folder:
            desk = FarDesk() if more or workers > 1 else Desk()
            try:
                searcher = PolicySearcher(jobs, context, ledger, notify, desk)
                if not searcher.over:
                    more |= {"desk": desk} if desk.late else {}
                    visit = tune.with_parameters(Visit, **{"context": context, **more})
                    waiting = Waiting(notify, share, deadline)
                    _fit(searcher, tune.with_resources(visit, placed(share)), workers, str(folder), waiting)
            finally:
                desk.close()
    if searcher.error is not None:
        raise searcher.error


def _fit(searcher: PolicySearcher, trainable: Any, workers: int, storage: str, waiting: Waiting) -> None:
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=Listening(searcher),
            num_samples=-1,
            max_concurrent_trials=workers,
            reuse_actors=True,
            trial_name_creator=lambda one: str(one.trial_id),
            trial_dirname_creator=lambda one: str(one.trial_id),
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=storage,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # else each trial writes to Tune's folder
            callbacks=[waiting],
            stop=Ended(searcher),
        ),
    )
    tuner.fit()


def _text(job: Job) -> str:
    body: dict[str, Any] = to_json(job)
    body.pop("kind", None)
    return json.dumps({"kind": job.kind, "body": {n: v for n, v in body.items() if v != float("inf")}})


def _job(text: str) -> Job:
    whole = json.loads(text)
    job: Job = from_json(_KINDS[whole["kind"]], whole["body"])
    return job
