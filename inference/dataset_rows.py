"""Tables and columns of the library `datasets`, in forms that the pipeline's base class takes.

A table whose videos would be decoded is read as stored bytes or paths, and the pipeline reads them itself. So no file
is opened twice, torchcodec is not needed, and a broken file is an error of its row only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch.utils.data import Dataset

from ..reading.addresses import scheme_of
from ..reading.video_sources import is_value_of_column


SEQUENCES_BUT_NO_COLUMNS = (list, tuple, str, bytes, bytearray, memoryview)


class Rows(Dataset):
    """A table or a column of the library `datasets` as a torch `Dataset`."""

    def __init__(self, rows):
        self.rows, self.stored = rows, as_stored(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int):
        row = self.stored[index]
        values = row.values() if isinstance(row, Mapping) and not is_value_of_column(row) else [row]
        # `datasets` opens files inside archives and on the Hub.
        return row if all(is_readable(value) for value in values) else self.rows[index]


def without_datasets(values):
    """A table or a column of the library `datasets` in a form that the base class takes; anything else unchanged."""
    if hasattr(values, "column_names"):
        return Rows(values) if hasattr(values, "__len__") else (row for row in values)
    is_column = isinstance(values, Sequence) and not isinstance(values, SEQUENCES_BUT_NO_COLUMNS)
    rows = Rows(values) if is_column else None
    return values if rows is None else [rows[index] for index in range(len(rows))]


def as_stored(rows):
    """The same table or column without decoders of videos, unless it has another format set."""
    if isinstance(name := getattr(rows, "column_name", None), str) and hasattr(rows, "source"):
        return as_stored(rows.source)[name]
    if not hasattr(rows, "cast_column") or rows.format["type"] is not None:
        return rows
    for name, feature in rows.features.items():
        # If the column names a stream, its decoder is needed: the pipeline would choose another stream.
        if type(feature).__name__ == "Video" and feature.decode and feature.stream_index is None:
            rows = rows.cast_column(name, replace(feature, decode=False))
    return rows


def is_readable(value) -> bool:
    """Whether the pipeline reads a stored value, whether its file exists or not."""
    if not is_value_of_column(value) or value.get("bytes") is not None:
        return True
    return scheme_of(str(value.get("path"))) in (None, "http", "https")
