"""Drafters as a user writes them down: validated settings, and the drafter that they describe."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from simulator.drafting.drafter import Drafter
from simulator.drafting.nothing import Nothing
from simulator.drafting.suffix import Suffix


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class NothingSettings(_Settings):
    """See `nothing.Nothing`."""

    kind: Literal["none"] = "none"

    def drafter(self) -> Drafter:
        """Return the drafter."""
        return Nothing()


class SuffixSettings(_Settings):
    """See `suffix.Suffix`."""

    kind: Literal["suffix"] = "suffix"
    scope: Literal["problem", "global", "request"] = "problem"
    own: bool = True
    match: Literal["longest", "scored"] = "longest"
    window: Annotated[int, Field(ge=1)] = 16
    depth: Annotated[int, Field(ge=2, le=255)] = 24
    factor: Annotated[float, Field(gt=0, le=255, strict=False)] = 1.0
    min_prob: Annotated[float, Field(ge=0, le=1, strict=False)] = 0.1

    def drafter(self) -> Suffix:
        """Return the drafter."""
        return Suffix(**self.model_dump(exclude={"kind"}))


DrafterSettings = Annotated[SuffixSettings | NothingSettings, Field(discriminator="kind")]
