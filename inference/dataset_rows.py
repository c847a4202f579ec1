"""Tables and columns of the library `datasets`, as the pipeline's base class takes them.

A table whose videos would be decoded is read as it is stored, bytes or paths: the pipeline reads them itself, so that
no file is opened twice, torchcodec is not needed, and a broken file is an error of its row alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch.utils.data import Dataset

from ..reading.addresses import scheme_of
from ..reading.video_sources import is_value_of_column


SEQUENCES_BUT_NO_COLUMNS = (list, tuple, str, bytes, bytearray, memoryview)


class Rows(Dataset):
    """A table or a column of the library `datasets`, as torch has data sets."""

    def __init__(self, rows):
        self.rows, self.stored = rows, as_stored(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int):
        row = self.stored[index]
        values = row.values() if isinstance(row, Mapping) and not is_value_of_column(row) else [row]
        # Files inside of archives and on the Hub are opened by `datasets`.
        return row if all(is_readable(value) for value in values) else self.rows[index]


def without_datasets(values):
    """A table or a column of the library `datasets` as the base class takes it; everything else unchanged."""
    if hasattr(values, "column_names"):
        return Rows(values) if hasattr(values, "__len__") else (row for row in values)
    is_column = isinstance(values, Sequence) and not isinstance(values, SEQUENCES_BUT_NO_COLUMNS)
    rows = Rows(values) if is_column else None
    return values if rows is None else [rows[index] for index in range(len(rows))]


def as_stored(rows):
    """The same table or column without decoders of videos, where rows are given as the table has them."""
    if isinstance(name := getattr(rows, "column_name", None), str) and hasattr(rows, "source"):
        return as_stored(rows.source)[name]
    if not hasattr(rows, "cast_column") or rows.format["type"] is not None:
        return rows
    for name, feature in rows.features.items():
        # The stream that a column names is one that the pipeline would not choose by itself.
        if type(feature).__name__ == "Video" and feature.decode and feature.stream_index is None:
            rows = rows.cast_column(name, replace(feature, decode=False))
    return rows


def is_readable(value) -> bool:
    """Whether a stored value is for the pipeline to read, be it there or not."""
    if not is_value_of_column(value) or value.get("bytes") is not None:
        return True
    return scheme_of(str(value.get("path"))) in (None, "http", "https")
