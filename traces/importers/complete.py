"""What the rows of a file do not say, added in one way for every format: step, prompt, number in the group, lengths."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from traces.importers.files import number_in_name
from traces.importers.gathered import Gathered
from traces.importers.imported import Imported
from traces.importers.source import Source
from traces.importers.text import prompt_id_of

pc: Any = pyarrow.compute  # its stubs refuse valid calls

LONGEST_ID = 64


def complete(found: Imported, source: Source, gathered: Gathered, *, step_in_name: bool) -> Imported:
    """Rows with the columns that follow from others, from the file's name and from the order; it says which those are."""
    table, assumed = found.table, list(found.assumed)
    for count, ids in (("output_tokens", "token_ids"), ("prompt_tokens", "prompt_token_ids")):
        kind = table.schema.field(ids).type if ids in table.column_names else None
        if count not in table.column_names and kind is not None and pa.types.is_list(kind):
            table = table.append_column(count, pc.cast(pc.list_value_length(table.column(ids)), pa.int32()))
    if "step" not in table.column_names:
        number = number_in_name(source.path) if step_in_name else None
        table = table.append_column("step", pa.array(np.full(table.num_rows, number or 0, np.int32)))
        from_name = "step is the number that ends the file's name"
        assumed.append("all rollouts are in step 0 (no step column)" if number is None else from_name)
    if "prompt_id" not in table.column_names:
        gathered.own_prompts = True
        names = [f"request-{row}" for row in range(gathered.rows, gathered.rows + table.num_rows)]
        table = table.append_column("prompt_id", pa.array(names, pa.string()))
        table = table.append_column("sample", pa.array(np.zeros(table.num_rows, np.int32)))
        assumed.append("each row is a prompt of its own (no prompt or prompt id)")
    else:
        table, hashed = _named_briefly(table)
        assumed.extend(hashed)
    if "sample" not in table.column_names:
        columns: list[list[Any]] = [table.column(name).to_pylist() for name in ("step", "prompt_id")]
        order = [gathered.next_in_group(step, prompt_id) for step, prompt_id in zip(*columns, strict=True)]
        table = table.append_column("sample", pa.array(order, pa.int32()))
        assumed.append("sample counts the rows of a prompt in a step, in file order")
    gathered.rows += table.num_rows
    return Imported(table, found.places, tuple(assumed), found.notes)


def _named_briefly(table: pa.Table) -> tuple[pa.Table, list[str]]:
    """The table with a hash in place of prompt ids that are whole prompts, which every row would hold."""
    names = table.column("prompt_id")
    if not pa.types.is_string(names.type) or (pc.max(pc.utf8_length(names)).as_py() or 0) <= LONGEST_ID:
        return table, []
    brief = [prompt_id_of(name) if name and len(name) > LONGEST_ID else name for name in names.to_pylist()]
    index = table.schema.get_field_index("prompt_id")
    return table.set_column(index, "prompt_id", pa.array(brief, pa.string())), [
        f"prompt ids of more than {LONGEST_ID} characters are hashed"
    ]
