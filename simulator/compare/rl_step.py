"""What a comparison simulates again and again: the RL steps of a run, whole or with other prompts in them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from simulator.budgets.policy import BudgetPolicy, TablePolicy
from simulator.drafting.acceptance import Acceptance, no_drafts
from simulator.engine.workload import Workload
from traces.errors import InputError

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class RLStep:
    """One RL step under one seed. policies: by name, what makes the policy anew, prepared for this RL step.

    `workload.prompt` numbers the prompts alike in all RL steps. An oracle is planned for one workload and is no policy here.
    """

    step: int
    seed: int
    workload: Workload
    policies: Mapping[str, Callable[[], BudgetPolicy]]

    @cached_property
    def _tables(self) -> Mapping[str, TablePolicy]:
        made = {name: make() for name, make in self.policies.items()}
        return {name: policy for name, policy in made.items() if isinstance(policy, TablePolicy)}

    def policy(self, name: str) -> BudgetPolicy:
        """Return a policy that has not seen anything yet."""
        return self._tables.get(name) or self.policies[name]()

    @cached_property
    def _by_prompt(self) -> tuple[Int64, Int64, Int64]:
        """Rows grouped by prompt, and by prompt number where they begin and how many there are."""
        order = np.argsort(self.workload.prompt, kind="stable")
        counts = np.bincount(self.workload.prompt)
        return order, np.cumsum(counts) - counts, counts

    def rows_of(self, drawn: Int64, slots: Int64) -> Int64:
        """Return the rows, in queue order, when prompt drawn[i] with all its rollouts takes the place of slots[i]."""
        order, begin, count = self._by_prompt
        drawn, slots = drawn[drawn < count.size], slots[drawn < count.size]
        slots = np.where(slots < count.size, slots, drawn)
        slots = np.where(count[slots] > 0, slots, drawn)
        each = count[drawn]
        nth = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
        rows = order[np.repeat(begin[drawn], each) + nth]
        places = order[np.repeat(begin[slots], each) + np.minimum(nth, np.repeat(count[slots], each) - 1)]
        in_order: Int64 = rows[np.argsort(places, kind="stable")]
        return in_order

    def with_rows(self, rows: Int64) -> Workload:
        """Return the workload of the given rows, which may repeat; acceptance comes along as it was recorded.

        A row drawn twice is two rollouts that know nothing of each other: that holds where drafts do not depend on what
        siblings emit meanwhile. Raises InputError where they do.
        """
        whole = self.workload
        if whole.siblings is not None:
            raise InputError("bootstrap: drafts from live siblings cannot be resampled: use --siblings next-step")
        parent, lengths = whole.acceptance, whole.output_tokens[rows]
        starts = parent.offsets[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        if parent.blank:
            return whole.taken(rows, no_drafts(offsets))

        def table(budget: int) -> UInt8:
            parent.serve([budget])
            source = parent.tables[parent.table_of[budget]]
            return np.concatenate([source[a:b] for a, b in zip(starts, starts + lengths, strict=True)])

        return whole.taken(rows, Acceptance(offsets, table, parent.prefix, parent.least))
