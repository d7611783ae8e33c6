"""Drafters as a user writes them down: validated settings, and the drafter that they describe."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from simulator.catalogue import load_model
from simulator.cost.draft_cost import FREE, DraftCost
from simulator.drafting.cost import load_draft_cost
from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.curve_files import read_curve
from simulator.drafting.default_price import MODELS, Kind
from simulator.drafting.diffusion import Diffusion
from simulator.drafting.drafter import Drafter, check_drafter
from simulator.drafting.hybrid import Hybrid
from simulator.drafting.last import Last
from simulator.drafting.model import Modelled
from simulator.drafting.ngram import Ngram
from simulator.drafting.nothing import Nothing
from simulator.drafting.recorded import Recorded
from simulator.drafting.step_log import read_log
from simulator.drafting.strategy import Strategy
from simulator.drafting.strategy_files import chosen, read_strategies, strategy_of
from simulator.drafting.suffix import Suffix
from simulator.drafting.trees import ModelTrees
from simulator.limits import (
    DEPTH,
    FACTOR,
    HEAD_LAYERS,
    LARGEST_BUDGET,
    NEWEST,
    NEWEST_WEIGHT,
    PROBABILITY,
    SUFFIX,
    WINDOW,
    DraftContext,
    DrafterKind,
    Match,
    OffSteps,
    Scope,
    Shape,
    Siblings,
)
from simulator.plugins import calling, check_named, load
from simulator.validated import Validated, within
from traces.errors import InputError

Price = dict[str, Annotated[float, Field(ge=0, strict=False)]] | str
"""Costs in the words of `pricing.draft_cost`, or a name that `pricing.entry_of` looks up."""


class NothingSettings(Validated):
    """See `nothing.Nothing`."""

    kind: Literal["none"] = "none"

    def drafter(self) -> Drafter:
        """Return the drafter."""
        return Nothing()


class SuffixSettings(Validated):
    """See `suffix.Suffix`. cost: a measured cost of drafting (`cost.load_draft_cost`), or `none`."""

    kind: Literal["suffix"] = "suffix"
    scope: Scope = SUFFIX.scope
    own: bool = SUFFIX.own
    match: Match = SUFFIX.match
    shape: Shape = SUFFIX.shape
    window: Annotated[int, within(WINDOW)] = SUFFIX.window
    depth: Annotated[int, within(DEPTH)] = SUFFIX.depth
    factor: Annotated[float, within(FACTOR), Field(gt=0, strict=False)] = SUFFIX.factor
    min_prob: Annotated[float, within(PROBABILITY), Field(strict=False)] = SUFFIX.min_prob
    prompt: bool = SUFFIX.prompt
    siblings: Siblings = SUFFIX.siblings
    newest: Annotated[int, within(NEWEST)] = SUFFIX.newest
    newest_weight: Annotated[int, within(NEWEST_WEIGHT)] = SUFFIX.newest_weight
    cost: str = SUFFIX.cost

    @model_validator(mode="after")
    def _drafts(self) -> Self:
        self._made(FREE)
        if self.scope == "request" and not self.own:
            raise ValueError("scope request without own output leaves nothing to draft from: change one of the two")
        if self.newest_weight != 1 and not self.newest:
            raise ValueError(f"newest_weight = {self.newest_weight} weighs nothing: say how many RL steps are newest")
        return self

    def _made(self, cost: DraftCost) -> Suffix:
        return Suffix(**self.model_dump(exclude={"kind", "cost"}), cost=cost)

    def drafter(self) -> Suffix:
        """Return the drafter."""
        return self._made(load_draft_cost(self.cost))


class NgramSettings(Validated):
    """See `ngram.Ngram`. As in vLLM, one of the two given alone serves for both. cost: as suffix drafting's."""

    kind: Literal["ngram"] = "ngram"
    prompt_lookup_min: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    prompt_lookup_max: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    cost: Price = "none"

    @model_validator(mode="before")
    @classmethod
    def _one_for_both(cls, given: Any) -> Any:
        names = ("prompt_lookup_min", "prompt_lookup_max")
        lengths = [given[name] for name in names if given.get(name) is not None] if isinstance(given, dict) else []
        return given | dict.fromkeys(names, lengths[0]) if len(lengths) == 1 else given

    def drafter(self) -> Ngram:
        """Return the drafter."""
        return Ngram(self.prompt_lookup_min, self.prompt_lookup_max, {} if self.cost == "none" else self.cost)


class LastSettings(Validated):
    """See `last.Last`."""

    kind: Literal["last"] = "last"
    window: Annotated[int, Field(ge=1)] = 1
    resync: bool = True
    min_match: Annotated[int, Field(ge=1, le=1_000_000)] = 2

    def drafter(self) -> Last:
        """Return the drafter."""
        return Last(self.window, self.resync, self.min_match)


Probability = Annotated[float, within(PROBABILITY), Field(strict=False)]
DraftTokens = Annotated[int, Field(ge=1, le=LARGEST_BUDGET)]


class _ModelSettings(Validated):
    """See `model.Modelled`, and `trees.ModelTrees` where it has strategies.

    curve: a file (`curve_files.read_curve`) or conditional probabilities by draft position. mode: which of a file's mean
    lengths. draft_tokens: use so many positions, no more than are known. strategies, in place of a curve: a file
    (`strategy_files.read_strategies`) or the rows of one. use: those named `depth-topk-verify`, in a list or with slashes
    between. spread, drift_per_step, drift_from: instead of the curves' own. cost: left out, the default
    (`default_price.default_price`), for which `model` names a draft model and `layers` says how many a head has.
    """

    kind: Kind
    curve: list[Probability] | str | None = None
    cost: Price | None = None
    model: str | None = None
    layers: Annotated[int, within(HEAD_LAYERS)] | None = None
    mode: str | None = None
    draft_tokens: DraftTokens | None = None
    strategies: list[dict[str, Any]] | str | None = None
    use: list[str] | str | None = None
    spread: Annotated[float, Field(ge=0, lt=1, strict=False)] | None = None
    drift_per_step: Annotated[float, Field(strict=False, allow_inf_nan=False)] | None = None
    drift_from: int | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.curve is None) == (self.strategies is None):
            problem = (
                "missing: give it, or strategies" if self.curve is None else "given beside strategies: leave one out"
            )
            raise ValueError(f"curve: {problem}")
        others = ("use",) if self.strategies is None else ("mode", "draft_tokens")
        if given := [name for name in others if getattr(self, name) is not None]:
            has = "curve" if self.strategies is None else "strategies"
            raise ValueError(f"{given[0]} does not go with {has}: leave it out")
        return self

    def drafter(self) -> Modelled | ModelTrees:
        """Return the drafter."""
        given = self.model_dump(include={"spread", "drift_per_step", "drift_from"}, exclude_none=True)
        model = None if self.model is None else load_model(self.model)
        if self.strategies is None:
            return Modelled(self.kind, replace(self._curve(), **given), self.cost, model=model, layers=self.layers)
        shapes = [replace(one, curve=replace(one.curve, **given)) for one in self._strategies(self.strategies)]
        return ModelTrees(self.kind, tuple(shapes), self.cost, model=model, layers=self.layers)

    @model_validator(mode="after")
    def _default_is_told_apart(self) -> Self:
        for name in ("model", "layers"):
            if getattr(self, name) is not None and self.cost is not None:
                raise ValueError(f"{name} has no effect beside cost: it is for the default price, so leave one out")
        if self.model is not None and self.kind not in MODELS:
            raise ValueError(f"model is a draft model's name, and {self.kind} is a head of the target: leave it out")
        if self.layers is not None and self.kind in MODELS:
            raise ValueError("layers is how many a head has: name the draft model with model, or leave it out")
        return self

    def _curve(self) -> AcceptanceCurve:
        if isinstance(self.curve, str):
            return read_curve(Path(self.curve), self.draft_tokens, self.mode)
        if self.mode is not None:
            raise InputError(f"mode {self.mode!r} chooses within a file, and the curve is written out: leave it out")
        return AcceptanceCurve(tuple(self.curve or ())).cut(self.draft_tokens)

    def _strategies(self, strategies: list[dict[str, Any]] | str) -> list[Strategy]:
        use = self.use.split("/") if isinstance(self.use, str) else self.use
        if isinstance(strategies, str):
            return read_strategies(Path(strategies), use)
        return chosen([strategy_of(row, f"strategies[{i}]") for i, row in enumerate(strategies)], use)


class EagleSettings(_ModelSettings):
    """See `model.Modelled`."""

    kind: Literal["eagle"] = "eagle"


class Eagle3Settings(_ModelSettings):
    """See `model.Modelled`."""

    kind: Literal["eagle3"] = "eagle3"


class DraftModelSettings(_ModelSettings):
    """See `model.Modelled`."""

    kind: Literal["draft_model"] = "draft_model"


class MtpSettings(_ModelSettings):
    """See `model.Modelled`."""

    kind: Literal["mtp"] = "mtp"


class ParallelSettings(_ModelSettings):
    """See `model.Modelled`."""

    kind: Literal["parallel"] = "parallel"


class DiffusionSettings(_ModelSettings):
    """See `diffusion.Diffusion`."""

    kind: Literal["diffusion"] = "diffusion"
    context: DraftContext = "recomputed"
    temperature: Annotated[float, Field(ge=0, strict=False, allow_inf_nan=False)] | None = None
    ends: Annotated[float, Field(ge=0, lt=1, strict=False)] = 0.0

    @model_validator(mode="after")
    def _drafts_chains(self) -> Self:
        if self.strategies is not None:
            raise ValueError("strategies are trees, and a diffusion model drafts one path: give curve")
        return self

    def drafter(self) -> Diffusion:  # type: ignore[override]
        """Return the drafter."""
        model = super().drafter()
        assert isinstance(model, Modelled), "it has a curve"
        return Diffusion(model, self.context, self.temperature, self.ends)


class RecordedSettings(Validated):
    """See `recorded.Recorded`. draft_tokens: needed where the trace has no `draft_lengths`.

    steps: a file of recorded decode steps; off_steps: what is drafted where none of them begins.
    """

    kind: Literal["recorded"] = "recorded"
    cost: Price
    draft_tokens: DraftTokens | None = None
    steps: str | None = None
    off_steps: OffSteps | None = None

    def drafter(self) -> Recorded:
        """Return the drafter."""
        if self.steps is None:
            if self.off_steps is not None:
                raise InputError(
                    f"drafter recorded: off_steps = {self.off_steps!r} without a file of recorded decode steps: give `steps`, "
                    "or leave it out"
                )
            return Recorded(self.draft_tokens, None, self.cost)
        log = read_log(Path(self.steps))
        if self.draft_tokens not in (None, log.draft_tokens):
            raise InputError(
                f"drafter recorded: draft_tokens = {self.draft_tokens}, but {self.steps} was recorded with "
                f"{log.draft_tokens}: leave draft_tokens out"
            )
        return Recorded(log.draft_tokens, log, self.cost, self.off_steps or "nothing")


ModelSettings = EagleSettings | Eagle3Settings | DraftModelSettings | MtpSettings | ParallelSettings


class HybridSettings(Validated):
    """See `hybrid.Hybrid`."""

    kind: Literal["hybrid"] = "hybrid"
    suffix: SuffixSettings = SuffixSettings(match="scored")
    model: Annotated[ModelSettings, Field(discriminator="kind")]
    threshold: Annotated[float, Field(ge=0, strict=False)] | None = None

    def drafter(self) -> Hybrid:
        """Return the drafter."""
        model = self.model.drafter()
        if isinstance(model, ModelTrees):
            raise InputError("drafter hybrid: model.strategies are trees, which it does not weigh: give model.curve")
        return Hybrid(self.suffix.drafter(), model, self.threshold)


class CustomSettings(Validated):
    """Somebody else's drafter: an entry point of the group `rolloutsim.drafters`, or module:attr; see `drafter.Drafter`.

    target: its name; options: keyword arguments it is made with. In a scenario, `kind: NAME` with options beside it does.
    """

    kind: Literal["custom"] = "custom"
    target: str
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("target")
    @classmethod
    def _may_be_imported(cls, target: str) -> str:
        check_named(target, "drafter")
        return target

    def drafter(self) -> Drafter:
        """Return the drafter."""
        make = load(self.target, "rolloutsim.drafters", "drafter", BUILT_IN_KINDS)
        with calling(f"drafter {self.target!r} with {self.options}", "mend it"):
            drafter = make(**self.options)
        return check_drafter(drafter, self.target)


DrafterSettings = Annotated[
    SuffixSettings
    | NgramSettings
    | LastSettings
    | NothingSettings
    | ModelSettings
    | DiffusionSettings
    | RecordedSettings
    | HybridSettings
    | CustomSettings,
    Field(discriminator="kind"),
]
BUILT_IN_KINDS: tuple[DrafterKind, ...] = get_args(DrafterKind)


def names_of(kind: str) -> list[str]:
    """The settings of a built-in kind."""
    union, _ = get_args(DrafterSettings)
    model = next(one for one in get_args(union) if one.model_fields["kind"].default == kind)
    return [name for name in model.model_fields if name != "kind"]


def with_kind(settings: Any) -> Any:
    """Complete what a user wrote: suffix where no kind is named, and any other name than a built-in kind as custom."""
    if not isinstance(settings, dict):
        return settings
    kind, rest = settings.get("kind", "suffix"), {key: value for key, value in settings.items() if key != "kind"}
    if isinstance(kind, str) and kind not in BUILT_IN_KINDS:
        return {"kind": "custom", "target": kind, "options": rest}
    return {"kind": kind, **rest}
