"""CSV op tables in pieces: every cell as the text that it is, every row with its line, written back unchanged."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from ..errors import TableError, shown

if TYPE_CHECKING:
    import pandas as pd

#: Rows that are in memory at a time.
CHUNK_ROWS: Final = 50_000


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a table.

    Attributes
    ----------
    header
        Names of the columns as the file has them.
    rows
        Cells as text, one list per row, each as long as `header`.
    lines
        Line of the file on which each row ends, counted from 1.
    """

    header: list[str]
    rows: list[list[str]]
    lines: list[int]

    def frame(self) -> pd.DataFrame:
        """The rows as columns of text, names and cells stripped of blanks; the index holds the lines."""
        import pandas as pd

        columns = [[cell.strip() for cell in column] for column in zip(*self.rows, strict=True)]
        return pd.DataFrame(dict(zip(map(str.strip, self.header), columns, strict=True)), index=self.lines, dtype=object)

    def write(self, stream: BinaryIO, added: Mapping[str, Sequence[Any]], *, with_header: bool) -> None:
        """Write the rows with the columns of `added` behind them, or in place of columns of the same name."""
        names = [name.strip() for name in self.header]
        header, columns = list(self.header), list[Sequence[Any]](zip(*self.rows, strict=True))
        for name, values in added.items():
            if name in names:
                columns[names.index(name)] = values
            else:
                header.append(name)
                columns.append(values)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if with_header:
            writer.writerow(header)
        writer.writerows(zip(*columns, strict=True))
        stream.write(text.getvalue().encode())


def read_chunks(path: Path, chunk_rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
    """Pieces of a comma-separated file with a header; UTF-8, a byte-order mark, either line end and blank lines are fine.

    Raises
    ------
    TableError
        The file cannot be read, is not CSV, has no rows, names a column twice, or has a row of another length than its header; the
        message names the file and the line.
    """
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next((row for row in reader if row), None)
            if header is None:
                raise TableError(f"{path}: empty; expected a header and rows")
            _check_header(header, path, reader.line_num)
            rows: list[list[str]] = []
            lines: list[int] = []
            for row in reader:
                if len(row) != len(header):
                    if not row:
                        continue
                    raise TableError(f"{path}, line {reader.line_num}: expected {len(header)} cells as in the header, found {len(row)}")
                rows.append(row)
                lines.append(reader.line_num)
                if len(rows) == chunk_rows:
                    line = reader.line_num
                    yield Chunk(header, rows, lines)
                    rows, lines = [], []
            if rows:
                yield Chunk(header, rows, lines)
            elif not line:
                raise TableError(f"{path}: no rows below the header")
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: not a CSV table in UTF-8: {error.reason} after line {line}") from None
    except csv.Error as error:
        raise TableError(f"{path}, line {reader.line_num}: not a CSV table: {error}") from None


def _check_header(header: list[str], path: Path, line: int) -> None:
    names = [name.strip() for name in header if name.strip()]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise TableError(f"{path}, line {line}: column {shown(twice)} is there twice")
    if len(header) == 1:
        other = next((name for mark, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")) if mark in header[0]), None)
        if other:
            raise TableError(f"{path}, line {line}: columns are separated by {other}; expected commas")
