"""Suffix drafting under any budget policy, inside vLLM: what is simulated with `siblings: live`, on a live engine.

    LLM(model, speculative_config={"method": "custom_class", "num_speculative_tokens": 24,
                                   "model": "simulator.deploy.vllm_proposer.SuffixProposer"},
        additional_config={"rolloutsim": {"history": "rollouts.parquet", "policy": "das", "profile": "NAME"}})

vLLM (0.32.0) makes one proposer for each model runner, and after every step shows it the rows of its batch. Everything that the
step emitted is learnt first, then all are drafted for: a sibling's tokens are known from the next step on, as in the simulator.
"""

import logging
import time
from functools import cache
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from simulator.budgets.answers import checked, every_of, facts_of, name_of
from simulator.budgets.context import Context
from simulator.budgets.policy import BudgetPolicy, TablePolicy
from simulator.budgets.resolve import check_spec, resolve_policy
from simulator.budgets.switch import Switched, switch_of
from simulator.budgets.view import SEEN, SINCE, BatchView, Requests
from simulator.cost import load_profile
from simulator.cost.model import CostModel
from simulator.deploy.sequences import NUMBERS, Sequences
from simulator.drafting.drafter import past_rows
from simulator.drafting.history import Forest
from simulator.drafting.measure import draft_curve
from simulator.drafting.settings import SuffixSettings
from simulator.limits import SEED, STEPS
from simulator.prepared import POLICY_WINDOW
from simulator.validated import Validated, made, within
from traces.errors import InputError
from traces.io import read
from traces.trace import Trace

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

KEY = "rolloutsim"
log = logging.getLogger(f"vllm.{__name__}")


class LiveSuffixSettings(SuffixSettings):
    """The suffix drafter with live siblings, one continuation at a time."""

    shape: Literal["path"] = "path"
    siblings: Literal["live"] = "live"


class ProposerSettings(Validated):
    """What stands under `rolloutsim` in vLLM's `additional_config`.

    history: a trace with token ids and prompts, none for a cold start; step: its RL steps before this one are history (left out:
    all of them). policy: as in a scenario, its budgets cut at num_speculative_tokens. profile: what steps cost, for policies that
    ask. stop_token_ids: what ends a sequence (left out: the model's), beyond which nothing is learnt, and so is max_tokens.
    """

    history: str | None = None
    step: Annotated[int, within(STEPS)] | None = None
    drafter: LiveSuffixSettings = LiveSuffixSettings()
    policy: str = "das"
    profile: str | None = None
    seed: Annotated[int, within(SEED)] = 0
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _resolves(self) -> Self:
        check_spec(self.policy)
        if self.step is not None and self.history is None:
            raise ValueError("step has no effect without a history: name one, or leave step out")
        return self


class NoProfile:
    """Stands for costs that were not named."""

    def __getattr__(self, name: str) -> Any:
        """Whoever asks for them learns that there are none."""
        raise InputError(
            "profile: missing: the policy asks what a step costs: name a profile (`rolloutsim profile list`)"
        )


class History:
    """What is known before an RL step: earlier rollouts, as the drafter and the policies see them.

    forest: what the drafter learnt; known: rows of the trace that policies know, int64[]; prompts: the index of each prompt, by
    its token ids as int32 bytes; sha256: of the trace.
    """

    def __init__(self, settings: ProposerSettings) -> None:
        nothing = np.zeros(1, np.int64)
        self.drafter = settings.drafter.drafter()
        self.forest, self.known = Forest({}, nothing - 1, nothing, nothing, self.drafter.depth), nothing[:0]
        self.trace: Trace | None = None
        self.prompts = dict[bytes, int]()
        if settings.history is not None:
            self._read(read(settings.history), settings.step)

    def _read(self, trace: Trace, step: int | None) -> None:
        self.trace = trace = trace if step is None else trace.select(trace.step < step)
        flat, at, following = trace.prompt_token_ids_flat, trace.prompt_offsets, trace.steps[-1] + 1
        for row in np.unique(trace.prompt, return_index=True)[1].tolist():
            self.prompts.setdefault(flat[at[row] : at[row + 1]].tobytes(), int(trace.prompt[row]))
        self.forest = self.drafter.learn(trace, past_rows(trace, following, self.drafter.window))
        self.known = past_rows(trace, following, max(self.drafter.window, POLICY_WINDOW))

    @property
    def n_prompts(self) -> int:
        """Prompts that it has rollouts of."""
        return 0 if self.trace is None else len(self.trace.prompt_ids)

    def context(self, cost: CostModel, max_num_seqs: int, seed: int) -> Context:
        """The same for policies; prompts that are new have indices beyond those known."""
        trace, known = self.trace, self.known
        if trace is None:
            return Context(NUMBERS, known, known, cost, max_num_seqs, lambda: None, self.drafter.cost, seed)
        return Context(
            self.n_prompts + NUMBERS, trace.prompt[known].astype(np.int64), trace.output_tokens[known].astype(np.int64), cost,
            max_num_seqs, cache(lambda: draft_curve(self.drafter, trace, known, seed)), self.drafter.cost, seed,
        )  # fmt: skip


class Budgets:
    """Gives the live sequences what a policy answers, `most` tokens at most; asked as often as the simulator asks it."""

    def __init__(self, policy: BudgetPolicy, sequences: Sequences, max_num_seqs: int, most: int) -> None:
        self.policy, self._sequences, self._slots, self._most = policy, sequences, max_num_seqs, most
        self._every = 1 if isinstance(policy, TablePolicy) else every_of(policy)
        self._switched = Switched(switch_of(policy))
        if self._switched.switch.reprefill:
            raise InputError(
                f"policy {name_of(policy)}: reprefill=yes computes all that runs again as drafting begins, for which vLLM has no "
                "need: leave it out"
            )
        self._seen: Int64 = sequences.records.view(np.int64).reshape(sequences.records.size, -1)[:, : len(SEEN)]
        self._members, self._asked_at, self._begun, self._began_s = b"", 0, -1, time.perf_counter()

    def __call__(self, places: Int64) -> None:
        """Ask for the sequences in these places, those that have ended left out."""
        records, steps = self._sequences.records, self._sequences.steps
        live = places[records["ended"][places] == 0]
        live = live[np.argsort(records["rollout"][live])]
        members = live.tobytes()
        self._switched.before_step(live.size)
        if not self._switched.on:
            records["budget"][live] = 0
        elif live.size and (members != self._members or 0 < self._every <= steps - self._asked_at):
            answer = checked(self.policy(self._view(live)), live.size, self.policy)
            records["budget"][live] = np.minimum(answer, self._most)
            self._members, self._asked_at = members, steps

    def _view(self, live: Int64) -> BatchView:
        known, seen = self._sequences, self._seen[live].T.copy()
        seen[SINCE] = known.steps - known.records["emitting"][live]
        if self._begun != known.begun:
            self._begun, self._requests = known.begun, Requests(known.prompt, known.sample, known.prompt_tokens)
        return BatchView(0, time.perf_counter() - self._began_s, self._slots, 0, known.steps, seen, self._requests)


class SuffixProposer:
    """vLLM's custom proposer: made with the engine's VllmConfig; raises InputError where its settings are wrong."""

    def __init__(self, vllm_config: Any) -> None:
        self._most = int(vllm_config.speculative_config.num_speculative_tokens)
        self._slots = int(vllm_config.scheduler_config.max_num_seqs)
        self._room, self._model = int(vllm_config.model_config.max_model_len), vllm_config.model_config
        self._policy: BudgetPolicy | None = None
        try:
            self.settings: ProposerSettings = made(ProposerSettings, (vllm_config.additional_config or {}).get(KEY, {}))
            self.begin_step()
        except InputError as error:
            raise InputError(f"additional_config.{KEY}: {error}") from error
        self._compile()

    def _compile(self) -> None:
        """Take a step that no real one shall wait for."""
        places = self.sequences.take_in(np.zeros((1, self._room), np.int32), np.array([2], np.int32), np.array([1]))
        self._budgets(places)
        self.sequences.draft()
        self.reset()

    def begin_step(self, **settings: Any) -> None:
        """Begin an RL step from a history that is loaded anew, under other settings where some are given.

        What the policy has learnt goes on, as it does from one simulated RL step to the next. Without this call, rollouts stay
        learnt in their groups for as long as the engine lives.
        """
        self.settings = made(ProposerSettings, self.settings.model_dump() | settings)
        self._history = History(self.settings)
        self.reset(previous=self._policy)

    def reset(self, max_num_seqs: int | None = None, previous: BudgetPolicy | None = None) -> None:
        """Forget everything since the history was loaded; policies plan for `max_num_seqs` slots from here on."""
        settings, history, slots = self.settings, self._history, max_num_seqs or self._slots
        cost: Any = NoProfile() if settings.profile is None else load_profile(settings.profile)
        self._policy = resolve_policy(settings.policy, history.context(cost, slots, settings.seed), previous)
        self.sequences = Sequences(
            history.drafter, history.forest, history.prompts, history.n_prompts, self._slots, self._room, self._most,
            self._stops(), settings.max_tokens,
        )  # fmt: skip
        self._budgets = Budgets(self._policy, self.sequences, slots, self._most)

    def propose(
        self,
        sampled_token_ids: list[list[int]],
        num_tokens_no_spec: Int32,
        token_ids_cpu: Int32,
        slot_mappings: Any = None,
    ) -> list[list[int]]:
        """Learn what the step emitted and draft for each row of the batch.

        sampled_token_ids: by row, none where a prompt is not computed to its end; num_tokens_no_spec, token_ids_cpu: int32[rows],
        int32[rows, max_model_len], the tokens known of each row, the sampled ones included.
        """
        emitted = np.fromiter(map(len, sampled_token_ids), np.int64, len(sampled_token_ids))
        prompts = len(self.sequences.new)
        self._budgets(self.sequences.take_in(token_ids_cpu, num_tokens_no_spec[: emitted.size], emitted))
        if self._history.trace is not None and not prompts and self.sequences.new:
            log.warning(
                "a prompt is not in %s: its rollouts are drafted for from each other alone", self.settings.history
            )
        return self.sequences.draft()

    def load_model(self, *arguments: Any, **named: Any) -> None:
        """There is no model to load."""

    @property
    def facts(self) -> dict[str, Any]:
        """What it drafts by, in words and numbers that JSON knows."""
        trace = self._history.trace
        assert self._policy is not None
        return {
            "settings": self.settings.model_dump(), "history_sha256": trace and trace.sha256, "stop_token_ids": self._stops(),
            "history_tokens": self._history.forest.tokens, "policy": facts_of(self._policy),
        }  # fmt: skip

    def _stops(self) -> list[int]:
        if self.settings.stop_token_ids is not None:
            return self.settings.stop_token_ids
        generation = self._model.try_get_generation_config()
        found = generation.get("eos_token_id", getattr(self._model.hf_config, "eos_token_id", None))
        stops: list[int] = [] if found is None else [found] if isinstance(found, int) else list(found)
        return stops
