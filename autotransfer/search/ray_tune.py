"""The default executor: Ray Tune. Beside ``cluster`` the only module that imports ray.

One Tune trial is one job. The Searcher hands out the jobs of the policy's current generation and, once all
of its records are in, asks the policy for the next; the scheduler is first come, first served.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from autotransfer.codec import from_json, to_json
from autotransfer.errors import ClusterMismatchError, SearchError
from autotransfer.schema import SurveyRecord, TrialRecord
from autotransfer.search import trial
from autotransfer.search.cluster import Waiting, enough, nodes, travelling
from autotransfer.search.jobs import Context, GapJob, Generation, Job, Record, RungJob, SurveyJob
from autotransfer.search.ledger import Ledger
from autotransfer.search.nodes import at_home, registry
from autotransfer.search.policy import Notify
from autotransfer.search.trial import Worker, failed

log = logging.getLogger(__name__)
_KINDS: Mapping[str, Any] = {"survey": SurveyJob, "gap": GapJob, "rung": RungJob}
_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",
    "TUNE_MAX_PENDING_TRIALS_PG": "4",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class Watchdog:
    """Kills its process when no batch has ended for too long; works while native code holds the interpreter."""

    def __init__(self, log_file: Path, seconds: float) -> None:
        self.file = log_file.open("w", encoding="utf-8")
        self.seconds = seconds

    def tick(self) -> None:
        """Begin to count anew."""
        self.file.seek(0)
        self.file.truncate()
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=self.file)

    def rest(self) -> None:
        """Stop counting: the process waits for work."""
        faulthandler.cancel_dump_traceback_later()


class Visit(tune.Trainable):
    """A long-lived worker; each Tune trial gives it one job."""

    def setup(
        self,
        config: dict[str, Any],
        context: Context | None = None,
        home: str = "",
        sources: Mapping[str, bytes] | None = None,
        offline: bool = False,
    ) -> None:
        """Make the worker, once a process.

        Args:
            config: of the first trial.
            context: what workers share.
            home: id of the driver's node; empty: this is it.
            sources: of single-file plugins.
            offline: weights may not be fetched.
        """
        assert context is not None
        away = bool(home) and ray.get_runtime_context().get_node_id() != home
        self.context = at_home(context, offline) if away else context
        self.sources = sources or {}
        self.name = f"pid {os.getpid()}" + f" on {platform.node()}" * away
        self.worker: Worker | None = None
        self.job_json = config["job"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next job; the worker keeps its models."""
        self.job_json = new_config["job"]
        return True

    def step(self) -> dict[str, Any]:
        """Run the job and end the trial."""
        job = _job(self.job_json)
        watchdog = Watchdog(self.context.path(f"watchdog-{job.key}.txt"), self.context.step_seconds)
        watchdog.tick()
        try:
            if self.worker is None:
                plugins = registry(self.context.manifest, self.sources)
                self.worker = Worker(self.context, plugins, name=self.name)
            self.worker.tick = watchdog.tick
            record = self.worker.run(job)
        except ClusterMismatchError as error:  # of a node that came later: no trial can succeed there
            return {"done": True, "mismatch": str(error)}
        finally:
            watchdog.rest()
        return {"done": True, "record": json.dumps(to_json(record))}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write nothing: checkpoints are ours, and a dict would become a pickle."""

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        """Read nothing, for the same reason."""


class PolicySearcher(Searcher):
    """Hands out the policy's jobs, generation by generation."""

    def __init__(self, jobs: Generation, context: Context, ledger: Ledger, notify: Notify) -> None:
        super().__init__(metric="done", mode="max")
        self.jobs = jobs
        self.context = context
        self.ledger = ledger
        self.notify = notify
        self.batch: list[Job] = []
        self.waiting: list[Job] = []
        self.records: dict[str, Record] = {}
        self.running: dict[str, Job] = {}
        self.over = False
        self.error: BaseException | None = None
        self._next(first=True)

    def suggest(self, trial_id: str) -> Any:
        """Return the next job's config, None while others of its generation run, FINISHED at the end."""
        if self.over:
            return Searcher.FINISHED
        if not self.waiting:
            return None
        job = self.waiting.pop(0)
        self.running[trial_id] = job
        self.notify("running", jobs=[j.title for j in self.running.values()])
        return {"job": json.dumps({"kind": job.kind, "body": _plain(job)})}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: a job has one result, its last."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Keep the record; a worker that died gives a failed one."""
        job = self.running.pop(trial_id, None)
        if job is None or self.over:
            return
        if result and "mismatch" in result:
            self.over, self.error = True, ClusterMismatchError(str(result["mismatch"]))
            return
        if error or not result or "record" not in result:
            record = failed(job, self._why_dead(job))
        else:
            kind = TrialRecord if isinstance(job, RungJob) else SurveyRecord
            record = cast("Record", from_json(kind, json.loads(result["record"])))
        self.ledger.add(job, record)
        self._keep(job, record, again=False)

    def _keep(self, job: Job, record: Record, *, again: bool) -> None:
        self.records[job.key] = record
        self.notify("record", record=record, again=again)
        if len(self.records) == len({j.key for j in self.batch}):
            self._next()

    def _next(self, first: bool = False) -> None:
        """Ask the policy for the next generation; jobs whose record is in the ledger are not run again."""
        try:
            while True:
                self.batch = next(self.jobs) if first else self.jobs.send([self.records[j.key] for j in self.batch])
                first, self.records = False, {}
                known = [(j, self.ledger.find(j)) for j in self.batch]
                self.waiting = [j for j, record in known if record is None]
                for job, record in known:
                    if record is not None:
                        self.records[job.key] = record
                        self.notify("record", record=record, again=True)
                if self.waiting:
                    return
        except StopIteration:
            self.over = True
        except Exception as error:  # Tune would swallow it: it is raised again after the run
            self.over, self.error = True, error

    def _why_dead(self, job: Job) -> str:
        note = self.context.path(f"watchdog-{job.key}.txt")
        text = note.read_text(encoding="utf-8") if note.exists() else ""
        if "Timeout" in text:
            where = _innermost(text)
            return f"it hung: nothing came for {self.context.step_seconds:g} s, so its worker was killed ({where})"
        return "its worker process died: out of memory, or a crash in native code"

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


def run(
    jobs: Generation,
    context: Context,
    ledger: Ledger,
    notify: Notify,
    workers: int,
    resources: Mapping[str, float],
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
        resources: ``cpu`` and ``gpu`` of one worker.
        joined: the caller named a cluster; its nodes are asked what they have, even where it is one.
        offline: nodes may not fetch weights.
        deadline: ``time.time()`` at which the last job must end.

    Raises:
        SearchError: Ray cannot be started, no node has the resources that one worker needs, or none came free in time.
        ClusterMismatchError: nodes lack what the driver has.
        KeyboardInterrupt: as it came; what was finished is in the ledger and known to the policy.
    """
    with _ray(workers, resources), _environment(_QUIET), _hushed():
        more = travelling(context, resources, offline) if joined or len(nodes()) > 1 else {}
        # Tune's folder must be seen by every node, and of the work folder that is known; else it lies outside the run.
        storage = tempfile.mkdtemp(prefix="autotransfer-tune-", dir=context.work if more else None)
        try:
            searcher = PolicySearcher(jobs, context, ledger, notify)
            if not searcher.over:
                visit = tune.with_parameters(Visit, **{"context": context, **more})
                waiting = Waiting(notify, resources, deadline)
                _fit(searcher, tune.with_resources(visit, dict(resources)), workers, storage, waiting)
        finally:
            shutil.rmtree(storage, ignore_errors=True)
    if searcher.error is not None:
        raise searcher.error


def _fit(searcher: PolicySearcher, trainable: Any, workers: int, storage: str, waiting: Waiting) -> None:
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=FIFOScheduler(),
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
            callbacks=[waiting],
        ),
    )
    tuner.fit()


@contextlib.contextmanager
def _ray(workers: int, resources: Mapping[str, float]) -> Iterator[None]:
    """Use the Ray that is there, or start one on this machine and stop it afterwards."""
    own = not ray.is_initialized()
    if own:
        try:
            ray.init(
                address="local",  # whatever other Ray runs on this machine, or is named by RAY_ADDRESS
                num_cpus=max(1, int(workers * resources.get("cpu", 1))),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:  # Ray raises many kinds when it cannot start
            raise SearchError(f"Ray cannot be started: {error}; executor='serial' works without it") from error
    try:
        enough(resources)
        yield
    finally:
        if own:
            ray.shutdown()


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep Ray's own log lines off the user's screen: every failure stands in a record, with its reason."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train", "ray._private.worker")]
    before = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {n: os.environ.get(n) for n in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _innermost(dump: str) -> str:
    """Return where the thread that ran the job was, from a dump of all threads, innermost call first."""
    blocks = [b for b in dump.split("\n\n") if os.path.basename(trial.__file__) in b] or [dump]
    return next((line.strip() for line in blocks[0].splitlines() if line.strip().startswith("File")), "unknown")


def _plain(job: Job) -> dict[str, Any]:
    body: dict[str, Any] = to_json(job)
    body.pop("kind", None)
    return {n: v for n, v in body.items() if v != float("inf")}


def _job(text: str) -> Job:
    whole = json.loads(text)
    job: Job = from_json(_KINDS[whole["kind"]], whole["body"])
    return job
