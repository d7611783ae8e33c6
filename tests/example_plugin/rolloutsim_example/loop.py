"""A loop: the next RL step's rollouts begin while the last ones of this one are under way."""


class Ahead:
    """Submits what is due, and more where fewer than 48 are in flight; over with as many groups as are needed."""

    lag = 0
    interrupts = False

    def offer(self, view):
        return max(view.due, min(48 - view.in_flight, view.fresh))

    def enough(self, view):
        return view.complete >= view.needed


ahead = Ahead()
