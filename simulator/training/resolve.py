"""From the names of loops and stages to what they name: built-ins, installed entry points, or `module:attr`."""

from collections.abc import Callable
from typing import Any, get_args

from simulator.plugins import calling, load
from simulator.spec import Reader, number, one_of, read, refuse, whole
from simulator.training.loop import Loop, Pipelines, ScoresOutputs, Watches
from simulator.training.loops import Pacing, Partial, Pipelined, Refill, Streaming, Whole
from simulator.training.online import online
from simulator.training.passes import drafter, log_probs, refresh, sync, update
from simulator.training.rewards import reward
from simulator.training.spot import spot
from simulator.training.stage import Per, PreparesStage, Prices, Stage
from traces.errors import InputError

MOST = 1_000_000


def _sync(argument: str) -> Loop:
    """All rollouts, then the update, then the next."""
    return _whole("sync", argument, 0)


def _one_step_async(argument: str) -> Loop:
    """The next RL step's rollouts while this one's are trained on."""
    return _whole("one_step_async", argument, 1)


def _whole(name: str, argument: str, lag: int) -> Loop:
    given = read(name, argument, {"minibatch": whole(1, MOST), "minibatches": whole(1, MOST)}, "loop")
    if len(given) > 1:
        refuse(name, argument, "has minibatch (groups of each) and minibatches (how many): give one of them", "loop")
    return Pipelined(lag, given.get("minibatch", 0), given.get("minibatches", 1)) if given else Whole(lag)


PARTIAL_READERS: dict[str, Reader] = {
    "rollouts": whole(1, MOST),
    "share": number(0.001, 1e6),
    "prompts": number(1, 1e6),
    "log_probs": one_of("batch", "outputs"),
}


def _partial(argument: str) -> Loop:
    """So many rollouts in flight; what is unfinished when enough groups are whole is carried over."""
    given = read("partial", argument, PARTIAL_READERS, "loop")
    if ("rollouts" in given) == ("share" in given):
        refuse(
            "partial", argument,
            "needs the rollouts in flight: write partial:rollouts=1024, or share=2 for twice those of an RL step", "loop",
        )  # fmt: skip
    outputs = given.pop("log_probs", "batch") == "outputs"
    return Partial(**given, scores_outputs=outputs)


def _refill(argument: str) -> Loop:
    """Groups that are all right or all wrong are dropped, and others begin instead."""
    if argument:
        refuse("refill", argument, "takes no settings", "loop")
    return Refill()


def _streaming(argument: str) -> Loop:
    """So many rollouts in flight all the time, trained on as groups complete; new weights are taken up at once."""
    given = read("streaming", argument, {"rollouts": whole(1, MOST), "lag": whole(0, 1000)}, "loop")
    if "rollouts" not in given:
        refuse("streaming", argument, "needs the rollouts in flight: write streaming:rollouts=1024", "loop")
    return Streaming(given["rollouts"], given.get("lag", 1))


def _own_pace(argument: str) -> Loop:
    """Replicas at their own pace: each begins the next RL step when it is through with this one."""
    return Pacing(**read("own_pace", argument, {"lag": whole(0, 1000)}, "loop"))


LOOPS: dict[str, Callable[[str], Loop]] = {
    "sync": _sync,
    "one_step_async": _one_step_async,
    "own_pace": _own_pace,
    "partial": _partial,
    "refill": _refill,
    "streaming": _streaming,
}
STAGES: dict[str, Callable[[str, Prices | None], Stage]] = {
    "reward": reward,
    "log_probs": log_probs,
    "update": update,
    "refresh": refresh,
    "sync": sync,
    "drafter": drafter,
    "spot": spot,
    "online": online,
}
LOOP_ENTRY_POINTS, STAGE_ENTRY_POINTS = "rolloutsim.loops", "rolloutsim.stages"


def resolve_loop(spec: str) -> Loop:
    """Return the loop that `spec` names; InputError says what is wrong with the name."""
    name, _, argument = spec.partition(":")
    if build := LOOPS.get(name):
        return build(argument)
    found: Loop = load(spec, LOOP_ENTRY_POINTS, "loop", list(LOOPS))
    if not (isinstance(getattr(found, "lag", None), int) and found.lag >= 0 and isinstance(found.interrupts, bool)):
        raise InputError(
            f"loop {spec!r}: lag and interrupts are missing: say lag, 0 or more, and interrupts, True or False"
        )
    if isinstance(found, Pipelines) and (isinstance(found, Watches) or found.interrupts):
        raise InputError(
            f"loop {spec!r}: has minibatch, for RL steps that are generated whole, and watches or interrupts them: drop one"
        )
    if isinstance(found, ScoresOutputs) and found.scores_outputs and found.interrupts:
        raise InputError(
            f"loop {spec!r}: scores_outputs is True, and an update interrupts what would be scored before it: set one to False"
        )
    return found


def resolve_stage(spec: str, prices: Prices | None = None) -> Stage:
    """Return the stage that `spec` names, priced where `prices` are given; InputError says what is wrong with it."""
    name, _, argument = spec.partition(":")
    if build := STAGES.get(name):
        return build(argument, prices)
    found = load(spec, STAGE_ENTRY_POINTS, "stage", list(STAGES))
    if prices is not None and isinstance(found, PreparesStage):
        with calling(f"stage {spec!r}: prepare", "mend the stage"):
            found = found.prepare(prices)
    return _checked(found, spec)


def _checked(stage: Any, spec: str) -> Stage:
    if isinstance(stage, PreparesStage):
        made: Stage = stage  # type: ignore[assignment]
        return made
    for member in ("name", "per", "basis", "seconds"):
        if not hasattr(stage, member):
            raise InputError(f"stage {spec!r} has no {member}: a stage has name, per, basis and seconds(rollouts)")
    if stage.per not in get_args(Per):
        raise InputError(f"stage {spec!r}: per = {stage.per!r}: use {', '.join(get_args(Per))}")
    checked: Stage = stage
    return checked
