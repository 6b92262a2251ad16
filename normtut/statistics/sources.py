"""Where images lie: files in folders, members of archives, rows of tables; here, or at an address."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal

from ..files import FileError

__all__ = ["Entry", "Place", "entries", "image_files", "is_archive", "places"]

_TARS: dict[str, Callable[[Any], Any]] = {
    ".tar": lambda f: f,
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.bz2": bz2.open,
    ".tar.xz": lzma.open,
}
_ARCHIVES = (*_TARS, ".zip", ".parquet", ".arrow")

#: What reading a damaged archive may raise.
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)

_LARGEST = 2**30  # bytes of a member, which is read into memory

_ROWS = 64  # of a table, read at once


@dataclass(frozen=True)
class Entry:
    """One file that may be an image.

    Args:
        name: what errors call it.
        data: its path, its contents, a function that fetches them, or why there are none.
        kind: a file; a member of an archive, where labels lie beside the images; or a row of a table, which
            is meant to be an image.
    """

    name: str
    data: str | bytes | FileError | Callable[[], bytes]
    kind: Literal["file", "member", "row"] = "file"


@dataclass(frozen=True)
class Place:
    """A file by its path, or by its address through fsspec."""

    path: str
    fs: Any = None
    name: str = ""

    def open(self) -> IO[bytes]:
        """The file, for reading."""
        opened: IO[bytes] = self.fs.open(self.path, "rb") if self.fs else io.FileIO(self.path)
        return opened

    @contextmanager
    def seekable(self) -> Iterator[IO[bytes]]:
        """The file, where it can be read in any order: here, or a copy of it for so long."""
        if self.fs is None:
            with self.open() as file:
                yield file
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = os.path.join(folder, "copy")
            self.fs.get_file(self.path, copy)
            with io.FileIO(copy) as file:
                yield file

    def entry(self) -> Entry:
        """The file itself as an image."""
        fs, path = self.fs, self.path
        return Entry(self.name or path, (lambda: bytes(fs.cat_file(path))) if fs else path)


def image_files(path: str | os.PathLike[str], *, unreadable: list[FileError] | None = None) -> list[str]:
    """The files of a folder and its subfolders, sorted; names that begin with a dot are left out.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.png", "a.png", ".hidden"):
    ...         pathlib.Path(folder, name).touch()
    ...     [os.path.basename(path) for path in image_files(folder)]
    ['a.png', 'b.png']

    Links are followed, each folder visited once. A path of a file gives that file.

    Args:
        path: the folder.
        unreadable: a list to which subfolders that cannot be read are added, instead of raising.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if the folder holds no files.
        OSError: if a folder cannot be read.
    """
    root = os.fspath(path)
    if not os.path.exists(root):
        raise FileNotFoundError(f"no such file or folder: {root}")
    if not os.path.isdir(root):
        return [root]

    def fail(error: OSError) -> None:
        if unreadable is None or error.filename == root:
            raise error
        unreadable.append(FileError(str(error.filename), f"folder not read: {error.strerror}"))

    found, visited = [], set()
    for folder, subfolders, files in os.walk(root, onerror=fail, followlinks=True):
        if (real := os.path.realpath(folder)) in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(d for d in subfolders if d[0] != ".")  # the same ones on every machine
        found += [os.path.join(folder, f) for f in files if f[0] != "."]
    if not found:
        raise ValueError(f"no files in the folder {root}")
    return sorted(found)


def places(
    paths: Sequence[str | os.PathLike[str]], unreadable: list[FileError] | None = None
) -> tuple[list[Place], int]:
    """All files of some folders, files and addresses; and a number that tells one such list from another.

    The number is the same on every machine, wherever the folders lie.
    """
    found: list[Place] = []
    names: list[str] = []
    for path in (os.fspath(p) for p in paths):
        if "://" in path:
            here = _remote(path)
            names += [p.path for p in here]
        else:
            here = [Place(f) for f in image_files(path, unreadable=unreadable)]
            names += [os.path.relpath(p.path, path) for p in here]
        found += here
    return found, zlib.crc32("\0".join(names).encode(errors="replace"))


def _remote(address: str) -> list[Place]:
    try:
        from fsspec.core import url_to_fs

        fs, root = url_to_fs(address)
    except ImportError as error:
        raise ValueError(
            f"{address}: {error}; addresses are read through fsspec and a package for each kind of them: "
            "pip install fsspec s3fs (s3://), gcsfs (gs://), adlfs (az://) or aiohttp (https://)"
        ) from error
    except ValueError as error:
        raise ValueError(f"{address}: {error}") from error
    try:
        if not fs.exists(root):
            raise FileNotFoundError(f"no such file or folder: {address}")
        alone = fs.isfile(root) and not address.endswith("/")  # a web server gives a page for a folder
        files = [root] if alone else sorted(fs.find(root))
    except OSError:
        raise
    except Exception as error:  # each kind of storage has its own
        raise OSError(f"{address}: {error}") from error
    inside = [f for f in files if not any(part[:1] == "." for part in f[len(root) :].split("/"))]
    if not inside:
        raise ValueError(f"no files in the folder {address}")
    return [Place(f, fs, str(fs.unstrip_protocol(f))) for f in inside]


def is_archive(place: Place) -> bool:
    """Whether a file holds many images, by its name."""
    return place.path.lower().endswith(_ARCHIVES) and (place.fs is not None or os.path.isfile(place.path))


def entries(files: Iterable[Place], key: str | None = None) -> Iterator[Entry]:
    """Every file, and every member of those that are archives, one after the other.

    Args:
        files: of folders, as `places` gives them.
        key: the column of the images in tables (Parquet, Arrow), if they have several.
    """
    for place in files:
        if not is_archive(place):
            yield place.entry()
            continue
        name = place.name or place.path
        try:
            yield from _members(place, name, key)
        except _DAMAGED as error:
            reason = str(error) or type(error).__name__
            yield Entry(name, FileError(name, f"damaged or cut off, counted up to there: {reason}"))


def _members(place: Place, name: str, key: str | None) -> Iterator[Entry]:
    lower = place.path.lower()
    if not lower.endswith((".parquet", ".arrow")):
        if lower.endswith(".zip"):
            with place.seekable() as file:
                yield from _zip(file, name)
        else:
            suffix = next(s for s in _TARS if lower.endswith(s))
            with place.open() as file:
                yield from _tar(_TARS[suffix](file), name)
        return
    try:
        import pyarrow as pa
    except ImportError:
        reason = "tables are read by the package pyarrow: pip install pyarrow"
        yield Entry(name, FileError(name, reason))
        return
    try:
        with place.seekable() as file:
            yield from _table(file, name, key, lower.endswith(".parquet"))
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


class _Tail(io.RawIOBase):
    """A file whose last bytes are remembered."""

    def __init__(self, file: Any) -> None:
        self.file, self.last = file, b""

    def read(self, size: int = -1) -> bytes:
        data: bytes = self.file.read(size)
        self.last = (self.last + data)[-512:]
        return data


def _tar(file: Any, name: str) -> Iterator[Entry]:
    tail = _Tail(file)
    with tarfile.open(fileobj=tail, mode="r|") as tar:
        for member in tar:
            if member.isfile() and not _hidden(member.name):
                inner = f"{name}/{member.name}"
                data = tar.extractfile(member)
                assert data is not None  # a regular file has contents
                small = member.size <= _LARGEST
                yield Entry(inner, data.read() if small else _too_large(inner), "member")
            tar.members.clear()  # type: ignore[attr-defined]  # else it keeps all of them
        while tail.read(2**20):  # to the end of what is compressed, where its checksum is
            pass
    if any(tail.last):  # tarfile takes the end of a file for the end of the archive
        raise ValueError("the mark of the end of the archive is missing")


def _zip(file: IO[bytes], name: str) -> Iterator[Entry]:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            if member.is_dir() or _hidden(member.filename):
                continue
            inner = f"{name}/{member.filename}"
            try:
                small = member.file_size <= _LARGEST
                yield Entry(inner, archive.read(member) if small else _too_large(inner), "member")
            # It may be encrypted, or compressed in an unusual way.
            except (*_DAMAGED, RuntimeError, NotImplementedError) as error:
                yield Entry(inner, FileError(inner, str(error)), kind="member")


def _too_large(name: str) -> FileError:
    return FileError(name, f"larger than {_LARGEST >> 20:,} MiB: no image, but perhaps a bomb")


def _hidden(member: str) -> bool:
    return any(part[:1] == "." and part != "." for part in member.split("/"))


def _table(file: IO[bytes], name: str, key: str | None, parquet: bool) -> Iterator[Entry]:
    import pyarrow as pa
    import pyarrow.parquet

    if parquet:
        table = pyarrow.parquet.ParquetFile(file)
        schema = table.schema_arrow
    else:
        try:
            table = pa.ipc.open_stream(file)
        except pa.ArrowInvalid:
            file.seek(0)
            table = pa.ipc.open_file(file)
        schema = table.schema
    column = _image_column(schema, name, key)
    if parquet:
        batches = table.iter_batches(batch_size=_ROWS, columns=[column])
    elif hasattr(table, "num_record_batches"):
        batches = (table.get_batch(i) for i in range(table.num_record_batches))
    else:
        batches = iter(table)
    row = 0
    for batch in batches:
        for value in batch.column(batch.schema.get_field_index(column)):
            data = value.as_py()
            data = data["bytes"] if isinstance(data, dict) else data
            inner = f"{name}/{row}"
            yield Entry(inner, FileError(inner, "no image in this row") if data is None else data, "row")
            row += 1


def _image_column(schema: Any, name: str, key: str | None) -> str:
    """The column that is named; else the only one that Hugging Face marks as images, or that holds bytes."""
    import pyarrow as pa

    def holds_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return bool(kind.get_field_index("bytes") >= 0)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    columns: list[str] = [field.name for field in schema if holds_bytes(field.type)]
    marked = (
        json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    )
    images = [c for c in columns if marked.get(c, {}).get("_type") == "Image"] or columns
    if key is not None:
        images = [c for c in columns if c == key]
    if len(images) != 1:
        listed = f"{schema.names}, of which {columns} hold bytes"
        raise ValueError(
            f"no column of encoded images by the name of {key!r} among {listed}"
            if key is not None
            else f"which column holds the images? Name it with key: {listed}"
        )
    return images[0]
