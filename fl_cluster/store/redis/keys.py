"""Every key name this cluster uses in Redis, built here and nowhere else.

All keys of one job carry the hash tag `{job}`, so a job is one slot of a Redis Cluster and
its scripts may touch several keys.  Blobs (models and partials) have tags of their own, so
that the bytes of many jobs spread over a cluster; a blob is named once and never overwritten.
docs/redis.md says of every key who writes it, who reads it, and how long it lives.
"""

from __future__ import annotations

from dataclasses import dataclass

from fl_cluster.rounds.exchange import Step

JOBS = "fl:jobs"
"""Set of the names of all jobs that ever started in this Redis."""


@dataclass(frozen=True, slots=True)
class JobKeys:
    """The keys of one job; `name` is the job's name, of any characters but braces."""

    name: str

    def _key(self, *parts: str) -> str:
        return ":".join(("fl", "{" + self.name + "}", *parts))

    @property
    def instance(self) -> str:
        """Hash: the training run: name, rounds, hyper-parameters, model layout."""
        return self._key("instance")

    @property
    def successor(self) -> str:
        """Hash: the run that begins when the current round is over; absent otherwise."""
        return self._key("successor")

    @property
    def nominees(self) -> str:
        """Sorted set: round numbers up to which members can build a lost job again."""
        return self._key("nominees")

    @property
    def round(self) -> str:
        """Hash: the current round: reference, phase, plan, deadlines, lease, base model."""
        return self._key("round")

    @property
    def models(self) -> str:
        """Hash: round number -> record of the model that round ended with (the last three)."""
        return self._key("models")

    @property
    def members(self) -> str:
        """Hash: member id -> record of the process (addresses, pid, host, version)."""
        return self._key("members")

    @property
    def leases(self) -> str:
        """Sorted set: member id -> cluster time in ms until which it counts as alive."""
        return self._key("leases")

    @property
    def fenced(self) -> str:
        """Sorted set: member id -> cluster time in ms at which it was declared dead."""
        return self._key("fenced")

    @property
    def tokens(self) -> str:
        """Hash: digest of a token -> its record, and `version`, which grows with each change."""
        return self._key("tokens")

    @property
    def tokens_used(self) -> str:
        """Hash: digest of a token -> cluster time in ms at which it was last used."""
        return self._key("tokens", "used")

    def signed(self, name: str) -> str:
        """String: what a signature was used for; forgotten with its timestamp."""
        return self._key("signed", name)

    @property
    def charges(self) -> str:
        """Hash: name of a kind of noisy release -> how often it was made, in all runs."""
        return self._key("charges")

    @property
    def events(self) -> str:
        """Pub/sub channel: one word per change; the round's hash says what is true."""
        return self._key("events")

    def cohort(self, ref: str) -> str:
        """Hash: device id -> what it declared when it checked in."""
        return self._key("round", ref, "cohort")

    def claims(self, ref: str) -> str:
        """Hash: device id -> member that is folding its update and has not committed it."""
        return self._key("round", ref, "claims")

    def reports(self, ref: str) -> str:
        """Hash: device id -> record of its counted update (position, digest, loss, ...)."""
        return self._key("round", ref, "reports")

    def partials(self, ref: str) -> str:
        """Hash: member id -> pointer to the blob of its partial, with its weight sums."""
        return self._key("round", ref, "partials")

    def answered(self, ref: str) -> str:
        """Set: devices that have been told that their update is counted."""
        return self._key("round", ref, "answered")

    def step(self, ref: str, step: Step) -> str:
        """Hash: device id -> what it told in this step of a masked round."""
        return self._key("round", ref, step)

    def attestations(self, ref: str) -> str:
        """Hash: device id -> the certificates it checked in with, and when it signed that."""
        return self._key("round", ref, "attestations")

    def noise(self, ref: str) -> str:
        """String: the secret from which the noise of this round's sum is made."""
        return self._key("round", ref, "noise")

    def visits(self, ref: str) -> str:
        """Hash: counter name -> how many requests of that kind and outcome came."""
        return self._key("round", ref, "visits")

    def of_round(self, ref: str) -> tuple[str, ...]:
        """All keys that belong to one round and are not needed once it is over."""
        return (
            self.cohort(ref),
            self.claims(ref),
            self.reports(ref),
            self.partials(ref),
            self.answered(ref),
            self.visits(ref),
            self.noise(ref),
            *(self.step(ref, step) for step in Step),
        )

    def evaluations(self, instance: str) -> str:
        """List: vectors of evaluation data of the run's newest updates, the newest first."""
        return self._key("run", instance, "evaluations")

    def blob(self, name: str) -> str:
        """String: raw little-endian numbers; `name` is unique, so it is written once."""
        return f"fl:blob:{{{self.name}:{name}}}"
