"""The executor without Ray: the same policy, job after job, in this process."""

from __future__ import annotations

from autotransfer.registry import Registry
from autotransfer.search.jobs import Context, Generation, Job, Record
from autotransfer.search.ledger import Ledger
from autotransfer.search.policy import Notify
from autotransfer.search.trial import Worker


def run(jobs: Generation, context: Context, ledger: Ledger, notify: Notify, registry: Registry) -> None:
    """Run all jobs of a policy. A hung plugin cannot be killed here; the Ray executor can.

    Raises:
        KeyboardInterrupt: as it came; what was finished is in the ledger and known to the policy.
    """
    worker = Worker(context, registry=registry)
    try:
        batch = next(jobs)
        while True:
            batch = jobs.send([_one(worker, job, ledger, notify) for job in batch])
    except StopIteration:
        return


def _one(worker: Worker, job: Job, ledger: Ledger, notify: Notify) -> Record:
    known = ledger.find(job)
    if known is not None:
        notify("record", record=known, again=True)
        return known
    notify("running", jobs=[job.title])
    record = worker.run(job)
    ledger.add(job, record)
    notify("record", record=record, again=False)
    return record
