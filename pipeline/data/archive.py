"""Contents of a folder or archive of pictures: names and sizes first, then the bytes of each file in turn.

Nothing is extracted. Members of archives are read as streams, and their names serve only as identifiers. An
archive is still rejected if extracting it could do harm, and the message names the member. Names that lead
out of the folder, links and devices have no place in an archive of pictures.
"""

import gzip
import hashlib
import json
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from pipeline.data.names import name_key
from pipeline.data.system_files import is_leaving, leaving_kinds
from pipeline.errors import UserError
from pipeline.files.atomic import write_whole

SUFFIXES = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".zip")
MAX_FILE_BYTES = 256 * 2**20
"""Largest size of one file in an archive, which is read into memory; no photograph comes near."""
MAX_EXPANSION, FREE_EXPANSION = 200, 256 * 2**20
"""An archive may expand to this multiple of its own size, plus this many bytes. Pictures hardly compress at all."""
UTF8_NAME = 0x800
"""Flag of a zip member whose name is UTF-8."""
MAX_DEPTH = 8
"""Levels of folders that are searched. A limit is needed because links between folders may form a circle."""


@dataclass(frozen=True)
class Listing:
    """Names below a root, with `/` between the parts, without hidden files and files left by desktop systems.

    Attributes:
        files: Name and size in bytes of each file, in the order in which the files are read. The size is -1
            if unknown.
        folders: Names of all folders, empty ones included.
        identity: A hash that changes when a name, a size or a modification time changes.
        leftovers: Number of files and folders that were left out, by kind.
    """

    files: tuple[tuple[str, int], ...]
    folders: tuple[str, ...]
    identity: str
    leftovers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Unreadable:
    """Placeholder for the bytes of a file that cannot be read.

    Attributes:
        reason: Why it cannot be read, in words.
    """

    reason: str


Payload = bytes | str | Unreadable
"""A file's bytes, the path to read them from, or the reason why there are none."""


def format_names(name: str) -> str:
    """Returns a name in printable form: bytes that are not UTF-8 and control characters for terminals are escaped.

    Args:
        name: A file name or path; undecodable bytes are surrogates, as from `os.fsdecode`.
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def list_root(root: Path, cache: Path | None = None) -> Listing:
    """Lists the files in a folder or an archive.

    Args:
        root: The folder or archive.
        cache: Folder in which the listings of archives are cached, since reading them takes time. None: no
            cache.

    Raises:
        UserError: If the root is missing, cannot be read, is no archive of a known kind, or is an unsafe
            archive.
    """
    try:
        if root.is_dir():
            return _list_folder(root)
        identity = _archive_identity(root)
    except OSError as error:
        raise UserError(
            f"params.yaml: prepare.root: {format_names(os.path.realpath(root))}: {error.strerror or error}."
            f"{_describe_near(root)} Set it to the folder or archive of your pictures; a relative path starts at the "
            "checkout."
        ) from None
    kept = cache / f"listing-{identity[:16]}.json" if cache else None
    return (kept and _cached_listing(kept, identity)) or _list_archive(root, identity, kept)


def _describe_near(root: Path) -> str:
    """Returns a sentence on what lies beside a missing root and has nearly its name; "" if nothing does."""
    try:
        place = Path(os.path.realpath(root))
        beside = [] if os.path.lexists(place) else [each for each in os.listdir(place.parent) if not is_leaving(each)]
    except (OSError, ValueError):
        return ""
    by_key = {name_key(each): each for each in beside}
    near = get_close_matches(name_key(place.name), by_key, n=1, cutoff=0.7)
    return f" There is {format_names(str(place.parent / by_key[near[0]]))}." if near else ""


def read_files(root: Path, wanted: Container[str]) -> Iterator[tuple[str, Payload]]:
    """Yields name and content of the wanted files of an archive, in the order of its listing.

    Args:
        root: The archive.
        wanted: Names of the files.

    Raises:
        UserError: If the archive cannot be read or is unsafe, as for `list_root`.
    """
    for member in _members(root):
        if not member.is_folder and member.name in wanted:
            small = member.size <= MAX_FILE_BYTES
            yield member.name, member.read() if small else Unreadable(f"larger than {MAX_FILE_BYTES // 2**20} MiB")


def _list_folder(root: Path) -> Listing:
    files: list[tuple[str, int]] = []
    folders: list[str] = []
    left: list[str] = []
    digest = hashlib.sha256(os.fsencode(root))
    todo = [""]
    while todo:
        folder = todo.pop()
        if folder.count("/") >= MAX_DEPTH:
            raise UserError(
                f"{format_names(str(root / folder))}: lies more than {MAX_DEPTH} folders deep. If a link leads back to "
                "a folder above it, remove the link."
            )
        try:
            with os.scandir(root / folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            if not folder:
                raise
            raise UserError(
                f"{format_names(str(root / folder))}: this folder cannot be listed ({error.strerror or error}). Make "
                "it readable, or take it out."
            ) from None
        below = []
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if is_leaving(entry.name):
                left.append(format_names(entry.name))
                continue
            there = None
            try:
                if entry.is_dir():
                    below.append(name)
                    continue
                # A broken link, a pipe or a socket has no pixels, and opening a pipe would block.
                there = entry.stat() if entry.is_file() else None
            except OSError:
                pass  # a link to itself, or a folder without permission; reported when the file is read
            files.append((name, there.st_size if there else -1))
            digest.update(repr((name, there and (there.st_size, there.st_mtime_ns))).encode())
        folders += below
        todo += reversed(below)
    return Listing(tuple(files), tuple(folders), digest.hexdigest(), leaving_kinds(left))


def _archive_identity(root: Path) -> str:
    there = root.stat()
    if not stat.S_ISREG(there.st_mode) or not root.name.lower().endswith(SUFFIXES):
        raise UserError(
            f"params.yaml: prepare.root: {format_names(str(root))}: neither a folder nor an archive of a kind that "
            f"can be read ({', '.join(SUFFIXES)})."
        )
    content = repr((str(root), there.st_size, there.st_mtime_ns))
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()


def _list_archive(root: Path, identity: str, cached: Path | None) -> Listing:
    """Lists the files in an archive, and caches the listing.

    Args:
        root: The archive.
        identity: Hash of the archive's path, size and modification time.
        cached: File to write the listing to; None: it is not cached.
    """
    files: dict[str, int] = {}
    folders: dict[str, None] = {}
    left: dict[str, str] = {}
    for member in _members(root):
        parts = tuple(member.name.split("/"))
        if (place := next((place for place, part in enumerate(parts) if is_leaving(part)), None)) is not None:
            left["/".join(parts[: place + 1])] = format_names(parts[place])
            continue
        last = len(parts) + member.is_folder
        folders |= dict.fromkeys("/".join(parts[:end]) for end in range(1, last))
        if not member.is_folder:
            if member.name in files:
                raise UserError(
                    f"{format_names(str(root))}: holds {format_names(member.name)} twice. Make the archive again."
                )
            files[member.name] = member.size
    listing = Listing(tuple(files.items()), tuple(folders), identity, leaving_kinds(left.values()))
    if cached:
        try:
            content = {"files": listing.files, "folders": listing.folders, "leavings": dict(listing.leftovers)}
            write_whole(cached, json.dumps(content), concurrent=True)
        except OSError:
            pass  # the cache only saves time
    return listing


def _cached_listing(cached: Path, identity: str) -> Listing | None:
    try:
        content = json.loads(cached.read_text())
        files = tuple((str(name), int(size)) for name, size in content["files"])
        leftovers = {str(name): int(count) for name, count in content["leavings"].items()}
        return Listing(files, tuple(str(name) for name in content["folders"]), identity, leftovers)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


class _Member(NamedTuple):
    """A file or folder of an archive.

    Attributes:
        name: Path in the archive, with `/` between the parts.
        is_folder: Whether it is a folder.
        size: Bytes of the file.
        read: Returns the file's content. It must be called before the next member is requested.
    """

    name: str
    is_folder: bool
    size: int
    read: Callable[[], Payload]


def _members(root: Path) -> Iterator[_Member]:
    members = _zip_members if root.name.lower().endswith(".zip") else _tar_members
    try:
        for member in members(root):
            parts = [part for part in member.name.split("/") if part not in ("", ".")]
            if member.name.startswith("/") or member.name[1:2] == ":" or ".." in parts:
                _refuse(root, member.name, "a name that leads out of the archive")
            if parts:
                yield member._replace(name="/".join(parts))
    except (OSError, EOFError, lzma.LZMAError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{format_names(str(root))}: cannot be read as an archive ({format_names(str(error))}). Is it complete, "
            "and does its suffix match its format?"
        ) from None


def _refuse(root: Path, name: str, what: str) -> None:
    """Raises the error for an archive that is unsafe to extract.

    Args:
        root: The archive.
        name: Name of the offending member.
        what: Description of the fault.
    """
    raise UserError(
        f"{format_names(str(root))}: contains {format_names(name)}, {what}. Nothing of it was unpacked. Make an "
        "archive of plain files; or, if you trust this one, unpack it yourself and set prepare.root to that folder."
    )


class _Limited:
    """Readable stream with a limit on the decompressed bytes, so that a small file cannot expand without end.

    Args:
        stream: The decompressing stream.
        limit: Largest number of bytes.
        root: The archive, for the message.
    """

    def __init__(self, stream: IO[bytes], limit: int, root: Path) -> None:
        self._stream, self._left, self._root = stream, limit, root

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            _refuse_bomb(self._root)
        return data


def _limit(root: Path) -> int:
    return root.stat().st_size * MAX_EXPANSION + FREE_EXPANSION


def _refuse_bomb(root: Path) -> None:
    raise UserError(
        f"{format_names(str(root))}: expands to more than {MAX_EXPANSION} times its size, which no archive of "
        "pictures does (a decompression bomb?). If you trust it, unpack it and set prepare.root to the folder."
    )


class _Header(tarfile.TarInfo):
    """Header of a tar member. A torn or missing header is an error here, where tarfile ends the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            raise tarfile.ReadError("it breaks off: the blocks of zeros that end an archive are missing") from None
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


def _tar_members(root: Path) -> Iterator[_Member]:
    name = root.name.lower()
    opened: Any = lzma.open if name.endswith(".xz") else gzip.open if name.endswith("gz") else open
    with (
        opened(root, "rb") as stream,
        tarfile.open(
            fileobj=cast(IO[bytes], _Limited(stream, _limit(root), root)),
            mode="r|",
            bufsize=2**18,
            tarinfo=_Header,
            encoding="utf-8",
            errors="surrogateescape",
        ) as archive,
    ):
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # tarfile would collect every header
            if not (member.isdir() or member.isreg()):
                _refuse(root, member.name, "a link or a device")
            if member.name.startswith("/"):
                _refuse(root, member.name, "a name that leads out of the archive")
            yield _Member(member.name, member.isdir(), member.size, _tar_reader(archive, member))


def _tar_reader(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], Payload]:
    def read() -> Payload:
        stream = archive.extractfile(member)
        return stream.read() if stream else b""

    return read


def _zip_members(root: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(root) as archive:
        if sum(member.file_size for member in archive.infolist()) > _limit(root):
            _refuse_bomb(root)
        names = _zip_names(root, archive)
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                _refuse(root, member.filename, "a link or a device")
            if member.flag_bits & 1:
                raise UserError(
                    f"{format_names(str(root))}: is encrypted. Unpack it and set prepare.root to the folder."
                )
            name = names[member.filename]
            yield _Member(name, member.is_dir(), member.file_size, _zip_reader(archive, member))


def _zip_names(root: Path, archive: zipfile.ZipFile) -> dict[str, str]:
    """Returns the members' names, by the names that zipfile gives them.

    If a member is not flagged as UTF-8, its name is in code page 437 by the specification, but programs write
    the code page of their system. Names that are valid UTF-8 are decoded as such. The other code pages cannot
    be told apart.

    Args:
        root: The archive, for messages.
        archive: The opened archive.

    Raises:
        UserError: If there are names in an unknown code page.
    """
    names, unknown = {}, []
    for member in archive.infolist():
        name = member.filename
        if not member.flag_bits & UTF8_NAME and not name.isascii():
            try:
                name = name.encode("cp437").decode("utf-8")
            except UnicodeError:
                unknown.append(name)
        names[member.filename] = name.replace("\\", "/")
    unknown = [name for name in unknown if not any(is_leaving(part) for part in name.split("/"))]
    if unknown:
        raise UserError(
            f"{format_names(str(root))}: has file names in an old code page, which the archive does not state: "
            f"{len(unknown):,}, such as {', '.join(format_names(name) for name in unknown[:3])}. Unpack it with the "
            "code page of the system that made it (`unzip -O cp932`, or `-O gbk`, `-O cp850`, ...) and set "
            "prepare.root to that folder, or make it again with names in UTF-8."
        )
    return names


def _zip_reader(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], Payload]:
    def read() -> Payload:
        try:
            return archive.read(member)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError) as error:
            return Unreadable(f"damaged in the archive ({error})")

    return read
