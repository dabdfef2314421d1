"""Delimited text files as Arrow tables, with the row at fault when one cannot be read."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from gnnaccel.data._columns import Table
from gnnaccel.data.events import DataError

HEAD = 1 << 18


def read_head(path: Path, size: int = HEAD) -> bytes:
    """The first bytes of a file, decompressed. Errors of the file system and of gzip become DataError."""
    try:
        with open(path, "rb") as f:
            magic = f.read(2)
        if magic != b"\x1f\x8b":
            with open(path, "rb") as f:
                return f.read(size)
        try:
            with gzip.open(path, "rb") as f:
                return f.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as e:
            raise _gzip_error(path, e) from None
    except FileNotFoundError:
        raise DataError(path, "no such file", "check the path") from None
    except OSError as e:
        raise DataError(path, f"cannot be read ({e.strerror or e})", "check its permissions") from None


def _gzip_error(path: Path, e: Exception) -> DataError:
    text = str(e)
    what = "is cut short" if "runcated" in text or "end-of-stream" in text else f"is damaged ({text})"
    return DataError(path, f"the gzip stream {what}", "fetch or compress the file again")


class _Watched:
    """A stream that tells whether `0x` went by: Arrow takes hexadecimal for integers, here it is the name of a node."""

    def __init__(self, stream: Any):
        self._stream, self._last, self.hex, self.closed = stream, b"", False, False

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(size)
        # The two characters may lie on either side of a cut
        self.hex = self.hex or b"0x" in block or b"0X" in block or (self._last + block[:1]) in (b"0x", b"0X")
        self._last = block[-1:]
        return block

    def close(self) -> None:
        self.closed = True


class TextFile:
    """A CSV or TSV file, perhaps gzipped, whose header has been looked at.

    Attributes:
        path: The file.
        delimiter: The one of , tab ; that the header has most of, or else a blank.
        header: Names as the file has them, blanks stripped.
        names: Names of the columns as read; `f0, f1, ...` after `ragged`.
    """

    def __init__(self, path: Path):
        self.path = path
        head = read_head(path)
        if b"\0" in head:
            raise DataError(path, "a binary file, not CSV or TSV", "name its format, or convert it to CSV or Parquet")
        # Not splitlines, which knows more line ends than Arrow
        lines = re.split(r"\r\n|\r|\n", head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace"))
        if not any(line.strip() for line in lines):
            raise DataError(path, "the file is empty", "it needs a header and at least one row")
        start = next(i for i, line in enumerate(lines) if line.strip())
        # pyarrow's skip_rows counts every line, empty ones too
        self.skip = start + 1
        self.rest = [line for line in lines[start + 1 :] if line.strip()]
        line = lines[start]
        # Blanks only where nothing else divides: they may be part of names
        self.delimiter = max(",\t;", key=line.count) if re.search("[,\t;]", line) else " "
        self.header = [x.strip() for x in next(csv.reader([line], delimiter=self.delimiter))]
        self.names = list(self.header)
        self.hex = False

    def ragged(self) -> int:
        """Take the number of columns from the first row instead of the header (JODIE's header is shorter than its rows)."""
        if not self.rest:
            raise DataError(self.path, "there is a header but no row", "it needs at least one event")
        n = len(next(csv.reader([self.rest[0]], delimiter=self.delimiter)))
        self.names = [f"f{i}" for i in range(n)]
        return n

    def column(self, index: int) -> str:
        return self.header[index] if index < len(self.header) else self.names[index]

    def _read(self, columns: list[str], types: dict[str, Any], threads: bool = True) -> pa.Table:
        with pa.OSFile(str(self.path), "rb") as raw:
            gz = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream = _Watched(pa.CompressedInputStream(raw, "gzip") if gz else raw)
            table = pacsv.read_csv(
                pa.PythonFile(stream, "r"),
                read_options=pacsv.ReadOptions(
                    column_names=self.names, skip_rows=self.skip, use_threads=threads, block_size=1 << 22
                ),
                parse_options=pacsv.ParseOptions(delimiter=self.delimiter),
                convert_options=pacsv.ConvertOptions(include_columns=columns, column_types=types),
            )
            self.hex = stream.hex
            return table

    def _as_text(self, columns: list[str]) -> pa.Table:
        try:
            # One thread alone knows the number of the row. (A handler of bad rows fails where they are not UTF-8.)
            table = self._read(columns, {c: pa.binary() for c in columns}, threads=False)
        except pa.ArrowInvalid as e:
            if bad := re.search(r"(?:Row #(\d+): )?Expected (\d+) columns, got (\d+)", str(e)):
                raise DataError(
                    self.path,
                    f"has {bad[3]} columns, not {bad[2]}",
                    "make every row as long as the first (quote a value that holds the delimiter)",
                    None if bad[1] is None else int(bad[1]) - self.skip,
                ) from None
            raise DataError(self.path, str(e).split("\n")[0], "check that it is CSV or TSV") from None
        for name in columns:
            try:
                table.column(name).cast(pa.string())
            except pa.ArrowInvalid:
                for i, value in enumerate(table.column(name).to_pylist()):
                    try:
                        value.decode("utf-8")
                    except UnicodeDecodeError:
                        raise DataError(
                            self.path, f"column {name!r} is not UTF-8", "convert the file to UTF-8", i + 1
                        ) from None
        return pa.table({c: table.column(c).cast(pa.string()) for c in columns})

    def read(self, columns: list[str], types: dict[str, Any] | None = None) -> Table:
        """The columns with inferred types (or the given ones); where that fails, as text, or DataError naming the row."""
        try:
            try:
                data = self._read(columns, types or {})
            except pa.ArrowInvalid:
                data = self._as_text(columns)
            if any(pa.types.is_binary(c.type) for c in data.columns):
                data = self._as_text(columns)
            if self.hex:
                for name in [c for c in columns if pa.types.is_integer(data.column(c).type)]:
                    data = data.set_column(columns.index(name), name, self._as_text([name]).column(0))
        except OSError as e:
            raise _gzip_error(self.path, e) from None
        if data.num_rows == 0:
            raise DataError(self.path, "there is a header but no row", "it needs at least one event")
        return Table(data, self.path, self._as_text)
