"""A public report as it is written down: one YAML file, validated."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from simulator.limits import LARGEST_BUDGET
from simulator.strict_yaml import load_mapping
from simulator.validated import Validated, made
from traces.errors import InputError

HERE = Path(__file__).parent
EVEN = 0.05
"""A speed-up this close to 1, or within the report's own spread of it, says nothing of the sign."""

Positive = Annotated[float, Field(gt=0, strict=False)]
Rate = Annotated[float, Field(gt=0, le=1, strict=False)]
Count = Annotated[int, Field(ge=1)]
Weights = Literal["bf16", "fp8", "nvfp4", "mxfp4", "int8", "int4"]
Kind = Literal["eagle", "eagle3", "mtp", "draft_model", "parallel", "ngram", "suffix"]


class Source(Validated):
    """Where it was published: a repository with the number of an issue or pull request, or with a file; or an arXiv number."""

    repository: str | None = None
    number: Count | None = None
    file: str | None = None
    arxiv: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        places = [self.arxiv is not None, self.number is not None, self.file is not None]
        if places.count(True) != 1 or (self.repository is None) != places[0]:
            raise ValueError("repository: give a repository and a number or a file, or an arXiv number alone")
        return self


class Drafts(Validated):
    """Drafts of `k` tokens, and how they were accepted.

    acceptance: mean accepted length, the bonus counted. rates: of the drafts, the share whose token at each position was
    accepted, so that acceptance is 1 and their sum.
    """

    k: Annotated[int, Field(ge=1, le=LARGEST_BUDGET)]
    acceptance: Annotated[float, Field(gt=1, strict=False)] | None = None
    rates: list[Rate] | None = None

    @model_validator(mode="after")
    def _accepted(self) -> Self:
        if self.acceptance is None and self.rates is None:
            raise ValueError("acceptance: missing: give the mean accepted length, or rates by position")
        if self.rates is not None:
            if len(self.rates) != self.k or sorted(self.rates, reverse=True) != self.rates:
                raise ValueError(f"rates = {self.rates}: give {self.k}, none above the one before")
            if self.acceptance is not None and abs(1 + sum(self.rates) - self.acceptance) > 0.02:
                raise ValueError(f"acceptance = {self.acceptance} is not 1 and the sum of rates = {self.rates}")
        return self

    @property
    def length(self) -> float:
        """Mean accepted length."""
        return self.acceptance if self.acceptance is not None else 1 + sum(self.rates or [])


class Tree(Validated):
    """A tree of drafts: `topk` branches at each of k depths. verified: of its tokens, and the last emitted one among them."""

    topk: Count
    verified: Annotated[int, Field(ge=2)]

    @property
    def drafts(self) -> int:
        """Tokens of the tree that are verified."""
        return self.verified - 1


class Setting(Validated):
    """What was run. A row may name any of it for itself.

    model, device: a name of the catalogue, or of `models/` or `devices/` here. weights: their precision.
    """

    model: str | None = None
    weights: Weights | None = None
    device: str | None = None
    tensor_parallel: Count | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None


class Row(Setting, Drafts):
    """A measurement: `live` requests at once, drafts, and the speed-up over no drafts, or over the drafts `against`.

    spread: what the report says of its own scatter, as a share. wrong_because: why the replay has the other sign.
    """

    drafter: Kind
    live: Count
    speedup: Positive
    tree: Tree | None = None
    spread: Annotated[float, Field(ge=0, lt=1, strict=False)] = 0.0
    plain_tokens_per_s: Positive | None = None
    against: Drafts | None = None
    wrong_because: str | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        most = 1 + (self.k if self.tree is None else min(self.k, self.tree.drafts))
        if self.length > most:
            raise ValueError(f"acceptance = {self.length} exceeds the {most} tokens that a step can emit")
        return self

    @property
    def faster(self) -> bool | None:
        """Whether it was faster; None where the report leaves that open."""
        return None if abs(self.speedup - 1) <= max(EVEN, self.spread) else self.speedup > 1


class Report(Validated):
    """A public report. assumed: fields that the report does not state and that were filled in here.

    used_for: what of the simulator was set from it. left_out: why it is not replayed.
    """

    source: Source
    engine: str
    version: str | None = None
    model: str
    weights: Weights = "bf16"
    device: str
    tensor_parallel: Count = 1
    workload: str
    input_tokens: Count
    output_tokens: Count
    measure: Literal["throughput", "tpot"]
    assumed: list[str]
    rows: Annotated[list[Row], Field(min_length=1)]
    used_for: Literal["price"] | None = None
    left_out: str | None = None
    notes: str | None = None

    @model_validator(mode="after")
    def _assumed_are_fields(self) -> Self:
        fields = {*Report.model_fields, *Row.model_fields}
        if unknown := [name for name in self.assumed if name not in fields]:
            raise ValueError(f"assumed = {unknown[0]!r} is no field of a report")
        return self

    @model_validator(mode="after")
    def _drafts_alone_differ(self) -> Self:
        for number, row in enumerate(self.rows):
            most = row.length * (1 + max(row.spread, EVEN))
            if self.left_out is None and row.against is None and row.speedup > most:
                raise ValueError(
                    f"rows.{number}.speedup = {row.speedup} exceeds acceptance = {row.length}, so more than drafting differed "
                    "between the runs: say so in left_out"
                )
        return self

    def setting(self, row: Row) -> dict[str, Any]:
        """What one row was measured with: the fields of Setting, as the row names them or else the report."""
        own = {name: getattr(row, name) for name in Setting.model_fields}
        return {name: getattr(self, name) if value is None else value for name, value in own.items()}


def load_report(path: Path) -> Report:
    """Read and validate one file; InputError names file, key and fault."""
    try:
        report: Report = made(Report, load_mapping(path.read_text("utf-8"), "source: {arxiv: ...}"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return report


def load_reports() -> dict[str, Report]:
    """All reports beside this module, by the name of their file."""
    return {path.stem: load_report(path) for path in sorted(HERE.glob("*.yaml"))}
