"""What the rows of a file do not say, added in one way for every format: step, prompt, number in the group, lengths."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from traces.importers.files import number_in_name
from traces.importers.gathered import Gathered
from traces.importers.imported import Imported
from traces.importers.source import Source

pc: Any = pyarrow.compute  # its stubs refuse valid calls


def complete(found: Imported, source: Source, gathered: Gathered, *, step_in_name: bool) -> Imported:
    """Rows with the columns that follow from others, from the file's name and from the order; it says which those are."""
    table, assumed = found.table, list(found.assumed)
    for count, ids in (("output_tokens", "token_ids"), ("prompt_tokens", "prompt_token_ids")):
        if (
            count not in table.column_names
            and ids in table.column_names
            and pa.types.is_list(table.schema.field(ids).type)
        ):
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
    elif "sample" not in table.column_names:
        groups = zip(table.column("step").to_pylist(), table.column("prompt_id").to_pylist(), strict=True)
        order = [gathered.next_in_group(step, prompt_id) for step, prompt_id in groups]
        table = table.append_column("sample", pa.array(order, pa.int32()))
        assumed.append("sample counts the rows of a prompt in a step, in file order")
    gathered.rows += table.num_rows
    return Imported(table, found.places, tuple(assumed), found.notes)
