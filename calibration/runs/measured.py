"""What was measured of a serving run: requests with their times, the engine's settings, and its state over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from calibration.runs.facts import EngineFacts
from traces.errors import InputError
from traces.trace import Trace

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Anchor = Literal["queued", "arrival"]


@dataclass(frozen=True, eq=False)
class Requests:
    """Requests in order of arrival, one element each; seconds since the first arrival or queueing, NaN if not recorded.

    `arrival_s` is when the client sent the request; `queued_s`, `scheduled_s` (the first time), `first_token_s` and
    `last_token_s` are the engine's stamps, or what the client saw. Where an engine's log has arrivals from another clock,
    each clock counts from its own first event.
    """

    request_id: tuple[str, ...]
    arrival_s: Float64
    prompt_tokens: Int64
    output_tokens: Int64
    queued_s: Float64
    scheduled_s: Float64
    first_token_s: Float64
    last_token_s: Float64

    def __len__(self) -> int:
        """Number of requests."""
        return len(self.request_id)


@dataclass(frozen=True, eq=False)
class Series:
    """What the engine logged at each tick: tokens per second since the tick before, requests and KV in use at the tick.

    `t_s` counts from when the engine's logger began, which is within about a tick of the first request.
    """

    t_s: Float64
    prompt_tokens_per_s: Float64
    output_tokens_per_s: Float64
    running: Float64
    waiting: Float64
    kv_fraction: Float64


class Drafting(NamedTuple):
    """The speculation of a run in the simulator's words.

    drafter: settings as a scenario has them; policy: the budget policy, as `replay --policy` takes it; most: tokens drafted for
    a sequence at most. profile, seed: what a policy decided by; None: it looks at no costs.
    """

    drafter: dict[str, Any]
    policy: str
    most: int
    profile: str | None = None
    seed: int = 0


class Rollouts(NamedTuple):
    """The requests of a run with their tokens, the last RL step of a trace, all there at once; and what drafted for them."""

    trace: Trace
    drafting: Drafting


@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """One measured run: where it is from, its requests, what its log says of the engine, and what a reader must know.

    `anchor` says from when times to first and last token count: the queueing in an engine's own log, the arrival in what a
    client measured. `notes` say what was left out or is not as it seems. `counts` are what was counted over the whole run, by
    the names of `validation.COUNTS`. `rollouts`, where tokens were recorded, are the requests in their order.
    """

    source: Path
    kind: str
    model: str | None
    requests: Requests
    settings: EngineFacts
    anchor: Anchor
    series: Series | None = None
    notes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    rollouts: Rollouts | None = None

    @property
    def anchor_s(self) -> Float64:
        """Times that waiting begins at, per request."""
        return self.requests.queued_s if self.anchor == "queued" else self.requests.arrival_s


def arranged(ids: Sequence[str], columns: Mapping[str, Sequence[float]], clocks: Sequence[Sequence[str]]) -> Requests:
    """Requests from columns in any order: sorted by arrival, the times of each clock counted from its earliest.

    `columns` may lack `queued_s` and `scheduled_s`; `clocks` lists the columns that share a clock.
    """
    arrays = {name: np.asarray(values, np.float64) for name, values in columns.items()}
    for clock in clocks:
        start_s = min(np.nanmin(arrays[name]) for name in clock if not np.isnan(arrays[name]).all())
        arrays |= {name: arrays[name] - start_s for name in clock}
    order = np.argsort(arrays["arrival_s"], kind="stable")
    unknown = np.full(len(ids), np.nan)
    return Requests(
        request_id=tuple(ids[row] for row in order),
        arrival_s=arrays["arrival_s"][order],
        prompt_tokens=arrays["prompt_tokens"][order].astype(np.int64),
        output_tokens=arrays["output_tokens"][order].astype(np.int64),
        queued_s=arrays.get("queued_s", unknown)[order],
        scheduled_s=arrays.get("scheduled_s", unknown)[order],
        first_token_s=arrays["first_token_s"][order],
        last_token_s=arrays["last_token_s"][order],
    )


def left_out(failed: int, requests: int, source: Path) -> tuple[str, ...]:
    """The note on failed requests, none if there were none; InputError if no request is left."""
    if failed == requests:
        raise InputError(f"{source}: none of the {requests} requests finished: record a run that has served some")
    if not failed:
        return ()
    return (f"{failed} of {requests} requests failed and are left out: what the engine did for them is not simulated",)
