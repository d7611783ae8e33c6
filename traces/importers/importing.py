"""Files of other systems turned into one trace, chunk by chunk: what is in memory does not grow with the files."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from traces import io
from traces.atomic import naming, replacing
from traces.casting import canonical
from traces.errors import InputError
from traces.importers.cap import Cap, cap_of
from traces.importers.complete import complete
from traces.importers.dispatch import choose
from traces.importers.encoder import Encoder
from traces.importers.format import Format, Options
from traces.importers.gathered import Gathered
from traces.importers.imported import Imported
from traces.importers.source import Source
from traces.importers.spool import Spool, ordered
from traces.schema import SCHEMA
from traces.validation import validate

pc: Any = pyarrow.compute  # its stubs refuse valid calls

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Written:
    """What was imported, in numbers; `note` is the provenance that went into the file (traces.io)."""

    file_format: str
    files: int
    rollouts: int
    output_tokens: int
    note: dict[str, Any]


def import_trace(paths: str | Path | Sequence[str | Path], file_format: str | None = None, **options: Any) -> pa.Table:
    """The trace that import_files writes, as a table in memory; the options are the same."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "trace.parquet"
        import_files(paths, out, file_format, **options)
        return io.load(out)[0]


def import_files(
    paths: str | Path | Sequence[str | Path],
    out: str | Path,
    file_format: str | None = None,
    *,
    column_map: Mapping[str, str] | None = None,
    tokenizer: str | Path | None = None,
    drop_empty: bool = False,
    tell: Tell | None = None,
) -> Written:
    """Write the trace in files, folders and patterns (files.files_of) to `out`; rows keep the order of the files.

    Without `file_format` it is what the files show themselves to be. `column_map` maps trace columns to the file's ("" leaves
    one out); `tokenizer` is a tokenizer.json, for text. A rollout of 0 tokens cannot be replayed: InputError, or dropped and
    counted with `drop_empty`. `tell` hears how many bytes of how many have been read. The provenance says the format, what
    was assumed and how many rows were dropped.
    """
    out = Path(out)
    given = [paths] if isinstance(paths, str | Path) else paths
    chosen, files, left_out = choose([Path(path) for path in given], file_format, mapped=bool(column_map))
    options = _options(chosen, files[0], column_map or {}, tokenizer)
    spool, gathered = Spool(out.parent), Gathered()
    if left_out:
        more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
        gathered.assumed[f"left out, as they hold no rollouts: {', '.join(left_out[:5])}{more}"] = None
    with naming(out), closing(spool):
        for source, chunk in _chunks(chosen, files, options, tell):
            chunk = complete(chunk, source, gathered, step_in_name=chosen.step_in_name or len(files) > 1)
            table = _checked(chunk, source, gathered, drop_empty)
            if table.num_rows:
                spool.add(table)
        gathered.refuse_what_no_chunk_shows(_named(files))
        note = _note(chosen, files, gathered, options)
        cap = None if chosen.own_clock or gathered.reasons else cap_of(gathered.lengths, options.encoder is not None)
        _write(spool, out, gathered, note, cap, chosen.own_clock)
    return Written(chosen.name, len(files), gathered.kept, gathered.output_tokens, note)


def _options(chosen: Format, path: Path, names: Mapping[str, str], tokenizer: str | Path | None) -> Options:
    if names and not chosen.takes_names:
        raise InputError(
            f"{path}: format '{chosen.name}' has fixed columns: leave the column map out, or say --format jsonl, csv or parquet"
        )
    if tokenizer is not None and not chosen.takes_tokenizer:
        raise InputError(f"{path}: format '{chosen.name}' holds no text: leave the tokenizer out")
    return Options(names, None if tokenizer is None else Encoder(Path(tokenizer)))


def _chunks(
    chosen: Format, files: list[Path], options: Options, tell: Tell | None
) -> Iterator[tuple[Source, Imported]]:
    sizes = [file.stat().st_size if file.exists() else 0 for file in files]
    total, before = sum(sizes), 0
    for file, size in zip(files, sizes, strict=True):
        source = Source(file)
        for chunk in chosen.read(source, options):
            yield source, chunk
            if tell:
                tell(before + source.read_bytes, total)
        before += size


def _checked(chunk: Imported, source: Source, gathered: Gathered, drop_empty: bool) -> pa.Table:
    """The rows to keep, valid by themselves, and counted."""
    table, places = canonical(chunk.table, str(source)), list(chunk.places)
    kept = _not_empty(table, places, str(source), drop_empty)
    gathered.dropped += len(places) - len(kept)
    if len(kept) < len(places):
        table, places = table.take(kept), [places[row] for row in kept]
    gathered.note(chunk)
    if table.num_rows:
        validate(table, str(source), places)
        gathered.add(table, source.path)
    return table


def _not_empty(table: pa.Table, places: list[str], source: str, drop_empty: bool) -> np.ndarray[Any, Any]:
    """Indices of the rows to keep: all but those of 0 output tokens."""
    if table.column("output_tokens").null_count:
        return np.arange(table.num_rows)  # validation says what is wrong
    empty = table.column("output_tokens").to_numpy() == 0
    if empty.any() and not drop_empty:
        first, count = int(np.flatnonzero(empty)[0]), int(empty.sum())
        more = f" (and {count - 1} more)" if count > 1 else ""
        raise InputError(
            f"{source}: {places[first]}: 0 output tokens{more}: nothing to replay; use --drop-empty to leave them out"
        )
    return np.flatnonzero(~empty)


def _note(chosen: Format, files: list[Path], gathered: Gathered, options: Options) -> dict[str, Any]:
    note: dict[str, Any] = {"format": chosen.name, "imported_from": files[0].name, "dropped_empty": gathered.dropped}
    if len(files) > 1:
        note |= {"files": len(files), "last_file": files[-1].name}
    if options.encoder is not None:
        note["tokenizer_sha256"] = options.encoder.sha256
    return {**note, **gathered.notes, "assumed": list(gathered.assumed)}


def _write(spool: Spool, out: Path, gathered: Gathered, note: dict[str, Any], cap: Cap | None, own_clock: bool) -> None:
    """The spooled rows as a trace, with what only all rows together tell."""
    without = gathered.dispensed()
    schema = pa.schema([column for column in spool.schema if column.name not in without])
    note["assumed"] += [f"{name} is left out, which some rows are without" for name in without]
    if cap is not None:
        note["assumed"].append(
            f"finish_reason is length for the {cap.rollouts:,} rollouts of {cap}, the longest, where lengths pile up; others "
            f"are unknown"
        )
        schema = ordered([*(field for field in schema if field.name != "finish_reason"), SCHEMA.field("finish_reason")])
    with replacing(out) as file, io.parquet_writer(file, schema, note) as writer:
        for table in spool.tables(schema):
            if own_clock and "arrival_s" in schema.names:
                table = _from_the_first(table, gathered.first_arrival_s)
            writer.write_table(cap.marked(table) if cap is not None else table)


def _from_the_first(table: pa.Table, first_s: float) -> pa.Table:
    """Arrivals counted from the first of all files, to the microsecond."""
    arrival_s = pc.round(pc.subtract(table.column("arrival_s"), first_s), 6)
    return table.set_column(table.schema.get_field_index("arrival_s"), SCHEMA.field("arrival_s"), arrival_s)


def _named(files: list[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
