"""The rows of ``generations.parquet``: their columns, and how they are written and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from open_r1.errors import UserError

SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("problem", pa.int64()),
        ("sample", pa.int64()),
        ("prompt", pa.large_string()),
        ("completion", pa.large_string()),
        ("tokens", pa.int64()),
        ("finish_reason", pa.string()),
        ("reward", pa.float64()),
        ("gold", pa.large_string()),
        ("seed", pa.int64()),
        ("subject", pa.string()),
        ("extracted", pa.large_string()),
    ]
)

SAMPLE_BITS = 32
"""Of `row_keys`: those below the problem."""


@dataclass(frozen=True)
class Generation:
    """One verified completion, a row of ``generations.parquet``.

    Attributes:
        task, problem, sample: which answer this is; problem is the row in the data set.
        prompt, completion: as text; the prompt with its chat template, the completion without its stop token.
        tokens: length of the completion in tokens, its stop token included.
        finish_reason: "stop", or "length" when it was cut off.
        reward: what the verifier gave; None where it could not decide (time-out, unparsable gold).
        gold: the right answer.
        seed: of this draw.
        subject: what the problem is about; None where the data does not say.
        extracted: the answer that the completion states, as text; None where it states none.
    """

    task: str
    problem: int
    sample: int
    prompt: str
    completion: str
    tokens: int
    finish_reason: str
    reward: float | None
    gold: str
    seed: int
    subject: str | None = None
    extracted: str | None = None


def to_table(rows: Sequence[Generation]) -> pa.Table:
    """Rows as a table."""
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in SCHEMA}
    try:
        return pa.table(columns, schema=SCHEMA)
    except UnicodeEncodeError:  # half of a surrogate pair, which a server's JSON can carry and UTF-8 cannot
        whole = {name: [_whole(value) for value in values] for name, values in columns.items()}
        return pa.table(whole, schema=SCHEMA)


def read_generations(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows of a file; a column that an older version did not write is null.

    Raises:
        UserError: it is no whole Parquet file of generations.
    """
    try:
        return pq.read_table(path, schema=SCHEMA, columns=columns)
    except (pa.ArrowException, OSError) as error:
        torn = isinstance(error, pa.ArrowInvalid)
        reason = "it is no whole Parquet file" if torn else str(error).splitlines()[0][:200]
        # Without the cause: its words are those of a broken data set, which is mended in other ways.
        raise UserError(f"{path} cannot be read ({reason}); delete it, and its answers are drawn again") from None


def row_keys(problems: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """One number for each (problem, sample), in their order."""
    return problems << SAMPLE_BITS | samples


def _whole(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
