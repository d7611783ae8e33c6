"""The interface of a transform: what a system changes before anything runs, and what it assumes by that."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from traces.trace import Trace

if TYPE_CHECKING:
    from simulator.drafting.drafter import Target


class Transform(Protocol):
    """A change to what a system runs; it may change rollouts, costs, or both.

    lossless: whether the policy writes what it would have written; assumes: one line that every result prints.
    """

    @property
    def name(self) -> str:
        """What results call it."""

    @property
    def lossless(self) -> bool:
        """Whether outputs keep the target model's distribution."""

    @property
    def assumes(self) -> str:
        """What is not known, and how it is filled in."""


@runtime_checkable
class ChangesRollouts(Protocol):
    """A transform of the workload."""

    def rollouts(self, trace: Trace, seed: int) -> Trace:
        """Return the trace that is run in place of this one: of the same RL steps, valid, the same for the same arguments.

        Random numbers are keyed by rollout (`drafting.draws`). Raises InputError where the trace lacks what it needs.
        """


@runtime_checkable
class ChangesCosts(Protocol):
    """A transform of what decode steps cost."""

    def costs(self, target: "Target") -> "Target":
        """Return the target at its new costs; InputError where nothing says what they would be."""


@runtime_checkable
class TellsFacts(Protocol):
    """A transform that has something to report of the trace that a system runs, once all its transforms are done."""

    def facts(self, trace: Trace) -> Mapping[str, float]:
        """Return finite figures by name."""
