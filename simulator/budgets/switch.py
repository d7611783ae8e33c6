"""When a policy begins to draft: once few rollouts have run for a while, as TLT switches over (arXiv 2511.16665)."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from simulator.compiled import entry
from simulator.spec import MOST, one_of, refuse
from traces.errors import InputError

REPREFILL = one_of("no", "yes")


@dataclass(frozen=True)
class Switch:
    """A replica drafts from the decode step on before which at most `live` rollouts ran for the `patience`-th time in a row.

    Until then its policy is not asked and gives nothing. Rollouts that a step admits do not run yet, and a step before which
    nobody ran is not counted. Drafting ends where the replica has nothing left, in its batch or its queue. patience: 0 drafts
    from the start. reprefill: whether everything that runs, and all that is cached, is computed anew when drafting begins.
    """

    live: int = 0
    patience: int = 0
    reprefill: bool = False

    def __post_init__(self) -> None:
        """Refuse counts that are none."""
        for name in ("live", "patience"):
            if not 0 <= getattr(self, name) <= MOST:
                raise InputError(f"switch: {name} = {getattr(self, name)!r}: give a whole number from 0 to {MOST}")

    @property
    def on(self) -> bool:
        """Whether drafting needs no beginning."""
        return self.patience == 0


ALWAYS = Switch()
"""Drafting from the start."""


@runtime_checkable
class Switches(Protocol):
    """A policy that waits for its switch."""

    @property
    def switch(self) -> Switch:
        """When it begins."""


@entry
def calm_steps(calm: int, running: int, live: int) -> int:
    """Decode steps in a row before which at most `live` rollouts ran, the step to come counted."""
    return calm + 1 if running <= live else 0


class Switched:
    """One replica's switch where no simulated engine keeps it."""

    def __init__(self, switch: Switch) -> None:
        self.switch, self.on, self._calm = switch, switch.on, 0

    def before_step(self, running: int) -> None:
        """Count the decode step to come, before which so many ran."""
        if running and not self.on:
            self._calm = calm_steps(self._calm, running, self.switch.live)
            self.on = self._calm >= self.switch.patience


def switch_of(policy: object) -> Switch:
    """Return a policy's switch; one that has none drafts from the start. InputError for something else of that name."""
    switch = policy.switch if isinstance(policy, Switches) else ALWAYS
    if not isinstance(switch, Switch):
        raise InputError(f"policy {type(policy).__qualname__}: switch = {switch!r:.40}: give a budgets.switch.Switch")
    return switch


def switch_from(name: str, argument: str, live: int, patience: int, reprefill: str) -> Switch:
    """Return the switch of a policy's settings; InputError for a recomputation without one."""
    if reprefill == "yes" and patience == 0:
        refuse(name, argument, "has reprefill=yes, but drafts from the start: give patience=, such as 10")
    return Switch(live, patience, reprefill == "yes")
