"""The job as a whole: its first member creates it, later ones join, and any can rebuild it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace

from fl_cluster.aggregate.layout import Layout
from fl_cluster.aggregate.model import Model
from fl_cluster.aggregate.scale import exponents
from fl_cluster.config.shared import MUST_BE_EQUAL, SharedParameters
from fl_cluster.errors import StartupError
from fl_cluster.rounds.phases import Reason, RoundRef
from fl_cluster.service.methods import plan_of, rule_of, why_impossible
from fl_cluster.service.spending import Terms
from fl_cluster.service.view import Stores
from fl_cluster.store.ports import JobRecord, ModelRecord

logger = logging.getLogger(__name__)

SYNC_FAILED = "Sync hyper params with distributed cache failed, distributed_cache_address:"
"""The original's words."""

NOMINATIONS_S = 1.2
"""Members look at the store each second, so by then each has said what it holds."""


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """The weights that a job without records starts from."""

    model: Model
    number: int
    """The round that ended with them: 0, or the number of a recovered checkpoint."""
    is_given: bool = True
    """Whether somebody chose these tensors; what is only a default gives way to the job's."""


async def open_job(
    stores: Stores, parameters: SharedParameters, start: StartingPoint, instance: str
) -> JobRecord:
    """The job's record: created from these arguments, or found and checked against them.

    The model gets what the job's way of aggregating needs beside the weights.
    StartupError says what of the model or of the settings differs from the job's.
    """
    given, start = start, replace(start, model=rule_of(parameters).completed(start.model))
    if (why := why_impossible(parameters)) is not None:
        raise StartupError(f"No round of this job could end well: {why}")
    if (why := _why_too_noisy(parameters, start.model)) is not None:
        raise StartupError(f"No round of this job could end well: {why}")
    record = JobRecord(
        instance, parameters.rounds_total, parameters.text, start.model.layout.to_json()
    )
    if await _create(stores, record, start, attempt=1):
        logger.info("job created: instance %s, round %d is next", instance, start.number + 1)
        return record
    found = await stores.jobs.job()
    if found is None:
        raise StartupError("the job's records vanished from Redis while this server started")
    shared = _compare(stores, parameters, found)
    if given.is_given:
        local = rule_of(shared).completed(given.model)
        _check_layout(local.layout, Layout.from_json(found.layout))
    return found


def _why_too_noisy(parameters: SharedParameters, model: Model) -> str | None:
    """Why the sums of the first round could not hold the noise of servers; None when they can.

    A round is paid for before its noise is added, so one that fails over it is paid for too.
    """
    terms = Terms.of(parameters.protection)
    if terms is None or terms.noise is None:
        return None
    cohort = plan_of(parameters).cohort_size
    if all(map(terms.noise.fits, exponents(model, cohort, rule_of(parameters)))):
        return None
    return (
        f"noise of deviation {terms.noise.sigma:g} (clip_norm times noise_multiplier) is larger"
        " than any sum of this model's weights could be"
    )


async def check_fit(stores: Stores, parameters: SharedParameters) -> None:
    """StartupError when a job runs that no server with these settings can join; opens none."""
    found = await stores.jobs.job()
    if found is not None:
        _compare(stores, parameters, found)


async def rebuild_job(
    stores: Stores,
    job: JobRecord,
    held: StartingPoint,
    lost: RoundRef,
    *,
    is_disabled: bool = False,
) -> None:
    """Create the records again from what a member holds, after the store has lost them.

    The round that was under way is given up, and the next one starts from the same model:
    devices whose updates are lost wait for the end of this one, and would wait in vain.  Its
    attempt grows, so that nothing of the first try is taken for the second.  A member that had
    not seen the newest round leaves this to one that had.  What an operator has disabled stays
    so.
    """
    await stores.jobs.nominate(lost.number)
    await asyncio.sleep(NOMINATIONS_S)
    if await stores.jobs.nominate(lost.number) > lost.number:
        logger.info("another server holds a newer round than %d", lost.number)
        return
    again = RoundRef(job.instance, held.number + 1, lost.attempt + 1)
    if await _create(stores, job, held, attempt=again.attempt, is_disabled=is_disabled):
        # Whoever dies before this leaves a round that devices may join as it is.
        await stores.rounds.abort(again, Reason.STORE_LOST)
        logger.warning("the job is in the store again: round %d is given up", again.number)


async def _create(
    stores: Stores,
    job: JobRecord,
    start: StartingPoint,
    attempt: int,
    *,
    is_disabled: bool = False,
) -> bool:
    if await _is_known(stores, job, start):
        return False
    parameters = SharedParameters.parse(job.hyper_parameters)
    plan = plan_of(parameters)
    model = start.model
    blob = f"model-{start.number}.{attempt}@{job.instance}-{model.digest[:16]}"
    await stores.blobs.put(blob, model.values.data, None)
    record = ModelRecord(
        start.number,
        blob,
        model.values.nbytes,
        model.digest,
        exponents(model, plan.cohort_size, rule_of(parameters)),
    )
    first = RoundRef(job.instance, start.number + 1, attempt)
    created = await stores.jobs.open(job, first, plan, record, is_disabled=is_disabled)
    if not created:
        # Another member was faster, and may have stored the same model under the same name.
        used = {record.blob for record in (await stores.jobs.models()).values()}
        await stores.blobs.drop([name for name in (blob,) if name not in used])
    return created


async def _is_known(stores: Stores, job: JobRecord, start: StartingPoint) -> bool:
    """Whether the store has a job, and not just an earlier state of this very run."""
    found, snapshot = await stores.jobs.job(), await stores.rounds.snapshot()
    if found is None or snapshot is None:
        return False
    return found.instance != job.instance or snapshot.ref.number > start.number


def _compare(stores: Stores, mine: SharedParameters, found: JobRecord) -> SharedParameters:
    """The running job's settings; StartupError when this server's do not go with them."""
    failed = f"{SYNC_FAILED} {stores.address}"
    try:
        shared = SharedParameters.parse(found.hyper_parameters)
    except (ValueError, KeyError, TypeError) as exc:
        raise StartupError(
            f"{failed}: the settings that the running servers keep in Redis cannot be read: {exc!r}"
        ) from exc
    for name, here, there in mine.differences(shared):
        if name in MUST_BE_EQUAL:
            raise StartupError(
                f"{failed}: {name} is {here} here and {there} for the servers that run already;"
                " make the files agree"
            )
        logger.warning("%s: this server's file says %s, the job runs with %s", name, here, there)
    return shared


def _check_layout(local: Layout, cached: Layout) -> None:
    if len(local) != len(cached):
        raise StartupError(
            f"The number {len(local)} of local features != the number {len(cached)}"
            " declared in the the distributed cache"
        )
    for tensor in cached:
        place = local.find(tensor.name)
        if place is None:
            raise StartupError(
                "The features are inconsistent with that declared in distributed cache:"
                f" cannot find feature {tensor.name} in local"
            )
        if place.tensor.size != tensor.size:
            raise StartupError(
                f"The feature size {4 * place.tensor.size} of local != that {4 * tensor.size}"
                f" declared in the distributed cache, feature: {tensor.name}"
            )
        if place.tensor.is_aggregated != tensor.is_aggregated:
            raise StartupError(
                f"The feature require_aggr {int(place.tensor.is_aggregated)} of local != that"
                f" {int(tensor.is_aggregated)} declared in the distributed cache,"
                f" feature: {tensor.name}"
            )
