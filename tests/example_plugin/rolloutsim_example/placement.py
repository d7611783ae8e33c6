"""A placement: halves of an RL step on either side of the cluster, and who stops early makes room."""

from simulator.scheduling.placement import Place


class Halves:
    """Even rollouts on the first half of the replicas, odd ones on the other, in stays of so many tokens."""

    events = frozenset({"start", "arrival", "left"})
    name = "halves"
    stay_tokens = 32

    def __call__(self, event, view):
        half = max(view.replicas // 2, 1)
        running, waiting, _, _ = view.loads
        loads = running + waiting
        for rollout in event.rollouts.tolist():
            side = slice(0, half) if rollout % 2 == 0 or view.replicas == 1 else slice(half, view.replicas)
            chosen = side.start + int(loads[side].argmin())
            loads[chosen] += 1
            yield Place(rollout, chosen, self.stay_tokens)


halves = Halves()
