"""A format that can be imported: how to recognise a file of it, and how to read one."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from traces.importers.encoder import Encoder
from traces.importers.head import Head
from traces.importers.imported import Imported
from traces.importers.source import Source


@dataclass(frozen=True)
class Options:
    """What the user says of the files: trace columns by what the file calls them ("" leaves one out), and a tokenizer."""

    names: Mapping[str, str] = field(default_factory=dict)
    encoder: Encoder | None = None


@dataclass(frozen=True)
class Format:
    """One kind of file; `read` yields its rows some MiB at a time, and leaves out what `complete` can add.

    `about` says in a line what writes it. `suffixes` are those of its files in a folder, before .gz or .zst.
    """

    name: str
    about: str
    read: Callable[[Source, Options], Iterator[Imported]]
    recognises: Callable[[Head], bool]
    suffixes: tuple[str, ...]
    takes_names: bool = False
    """Whether --map says what its columns are called."""
    takes_tokenizer: bool = False
    """Whether it holds text that --tokenizer turns into token ids."""
    step_in_name: bool = False
    """Whether the number that ends a file's name is its RL step, where rows do not say."""
    own_clock: bool = False
    """Whether arrival_s counts from any moment: the earliest of all files becomes 0."""
    fallback: bool = False
    """Whether it is chosen only where nothing else recognises a file."""
