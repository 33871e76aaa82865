"""Storage that several machines share, by its address: a folder that all of them mount, or `s3://bucket/prefix`.

Only this module distinguishes the two. S3 is accessed by pyarrow, which is a dependency of Ray Tune and
MLflow. Credentials come from the usual places: AWS_* variables, `~/.aws`, or the machine's role.
AWS_ENDPOINT_URL selects a store other than Amazon's. A store that does not answer is reported within seconds.
This module does not import Ray.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError, format_value, quote_name, truncate
from pipeline.files.file_stats import size_of

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem, S3FileSystem

SCHEME = "s3://"
BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"

FOR_WORKERS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_EC2_METADATA_DISABLED",
)
"""Variables that are passed to workers. Variables with paths of files on the driver's machine are left out."""

CONNECT_S = 5.0
"""Seconds within which a store must accept a connection."""

TRIES, PATIENT_TRIES = 3, 7
"""Attempts per request: TRIES take seconds, where somebody waits; PATIENT_TRIES half a minute, for trials."""

REFUSED = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "TOKEN", "HTTP status 403")
"""Words of the AWS SDK's errors for missing or insufficient rights."""


class StorageError(UserError):
    """Shared storage cannot be used: it does not answer, does not exist or denies access."""


def is_s3(address: str) -> bool:
    """Returns whether an address is in a bucket rather than a folder.

    Args:
        address: a path, or `s3://bucket/prefix`.
    """
    return address.startswith(SCHEME)


def join(address: str, *names: str) -> str:
    """Returns the address of something below another address.

    Args:
        address: a folder or a prefix in a bucket.
        *names: the steps below it.
    """
    return "/".join([address.rstrip("/"), *names])


def worker_environment(address: str | None) -> dict[str, str]:
    """Returns the environment variables with which workers reach storage as this process does.

    Args:
        address: the storage, or None for none. The result is empty for None, for a folder, and where roles
            give access.
    """
    if address is None or not is_s3(address):
        return {}
    return {name: os.environ[name] for name in FOR_WORKERS if name in os.environ}


def filesystem_of(address: str) -> "tuple[FileSystem | None, str]":
    """Returns the file system of an address and the path in it, in the form that Ray Tune takes.

    Args:
        address: a folder, or an address in a bucket.

    Returns:
        (file system, path). The file system is None for a folder of the machine.
    """
    if not is_s3(address):
        return None, address
    return _with_retries(), _key(address)


def address_of(checkpoint: Any) -> str:
    """Returns the address of a checkpoint of Ray's.

    Args:
        checkpoint: a `ray.train.Checkpoint`.
    """
    path = str(checkpoint.path)
    return SCHEME + path if checkpoint.filesystem.type_name.startswith("s3") else path


def check_storage(address: str, *, named_by: str) -> None:
    """Checks, before work starts, that storage exists and gives access.

    Args:
        address: a folder, or `s3://bucket/prefix`.
        named_by: the parameter that names the storage, for the message.

    Raises:
        StorageError: there is no such folder or bucket, credentials are missing or wrong, or the store does
            not answer.
    """
    if "://" in address and not is_s3(address):
        raise StorageError(
            f"{named_by}: {quote_name(address)}: neither a folder nor s3://bucket/prefix, the two allowed forms."
        )
    if not is_s3(address):
        if not Path(address).is_dir():
            raise StorageError(f"{named_by}: {address}: no such folder here. Mount it on every node, or make it.")
        return
    bucket = _key(address).partition("/")[0]
    if not re.fullmatch(BUCKET, bucket):
        raise StorageError(f"{named_by}: {format_value(bucket)} is no name of a bucket; give s3://bucket/prefix.")
    if _endpoint() and not _has_credentials():
        raise StorageError(
            f"{named_by}: {address}: no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where you "
            "start this."
        )
    from pyarrow.fs import FileType

    with _storage_errors(address, f"{named_by}: "):
        found = _s3().get_file_info(bucket)
    if found.type == FileType.NotFound:
        raise StorageError(
            f"{named_by}: {address}: there is no bucket {bucket} at {_endpoint() or 'Amazon S3'}. Create it, or "
            "correct the address."
        )


def exists(address: str) -> bool:
    """Returns whether a file, a folder or anything under a prefix exists.

    Args:
        address: a path, or an address in a bucket.
    """
    if not is_s3(address):
        return os.path.exists(address)
    from pyarrow.fs import FileType

    with _storage_errors(address):
        return bool(_s3().get_file_info(_key(address)).type != FileType.NotFound)


def read_bytes(address: str) -> bytes:
    """Reads a file.

    Args:
        address: a path, or an address in a bucket.

    Raises:
        OSError, StorageError: the file cannot be read.
    """
    if not is_s3(address):
        return Path(address).read_bytes()
    with _storage_errors(address), _s3().open_input_stream(_key(address)) as file:
        return bytes(file.read())


def read_text(address: str) -> str:
    """Reads a file as UTF-8.

    Args:
        address: a path, or an address in a bucket.

    Raises:
        OSError, StorageError: the file cannot be read.
    """
    return read_bytes(address).decode()


def write_text(address: str, text: str) -> None:
    """Writes a file as UTF-8, and creates the folder around it.

    Args:
        address: a path, or an address in a bucket.
        text: the content.

    Raises:
        OSError, StorageError: the file cannot be written.
    """
    if not is_s3(address):
        Path(address).parent.mkdir(parents=True, exist_ok=True)
        Path(address).write_text(text)
        return
    with _storage_errors(address), _s3().open_output_stream(_key(address)) as file:
        file.write(text.encode())


def copy_in(source: Path, address: str) -> None:
    """Copies a file of this machine to an address."""
    if not is_s3(address):
        Path(address).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, address)
        return
    _copy(address, str(source), _key(address), destination_filesystem=_with_retries())


def copy_out(address: str, target: Path) -> None:
    """Copies a file, or a folder with its content, to this machine."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_s3(address):
        _copy(address, _key(address), str(target), source_filesystem=_with_retries())
    elif Path(address).is_dir():
        shutil.copytree(address, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(address, target)


@contextmanager
def local_copy(address: str) -> Iterator[Path]:
    """Yields a folder of storage as a folder of this machine.

    Args:
        address: a folder, which is yielded itself, or an address in a bucket, which is copied for the
            duration of the block.
    """
    if not is_s3(address):
        yield Path(address)
        return
    with tempfile.TemporaryDirectory(prefix="sar-search-copy-") as folder:
        copy_out(address, Path(folder))
        yield Path(folder)


def list_dir(address: str, depth: int = 1) -> list[str]:
    """Returns the addresses at a given depth below another one, sorted; empty if there are none.

    Args:
        address: a folder, or an address in a bucket.
        depth: steps below the address; 1 lists its direct entries.
    """
    if not is_s3(address):
        return sorted(str(path) for path in Path(address).glob("/".join("*" * depth)))
    root = _key(address)
    steps = {"/".join(path[len(root) + 1 :].split("/")[:depth]) for path, _ in _walk(address)}
    return sorted(join(address, step) for step in steps if step.count("/") == depth - 1)


def size(address: str) -> int:
    """Returns the total bytes of the files at an address.

    Args:
        address: a path, or an address in a bucket.
    """
    if is_s3(address):
        return sum(held for _, held in _walk(address))
    return size_of(Path(address))


def remove(addresses: Sequence[str]) -> None:
    """Removes folders with their content, as far as they exist.

    Errors of this machine's own file system are ignored.

    Args:
        addresses: folders, or addresses in a bucket.

    Raises:
        StorageError: the store did not remove one.
    """
    remote = [address.rstrip("/") for address in addresses if is_s3(address)]
    for address in addresses:
        if not is_s3(address):
            shutil.rmtree(address, ignore_errors=True)
    # Most of many addresses are gone already, so one listing below their common prefix replaces a request for each.
    # A whole bucket is never listed.
    shared = os.path.commonpath([_key(address) for address in remote]) if len(remote) > 1 else ""
    if "/" in shared:
        there = [SCHEME + path for path, _ in _walk(SCHEME + shared)]
        steps = {path.rpartition("/")[0] for path in there} | {path.rstrip("/") for path in there}
        held = {
            "/".join(parts[:count]) for parts in (step.split("/") for step in steps) for count in range(len(parts) + 1)
        }
        remote = [folder for folder in remote if folder in held]
    for folder in remote:
        with suppress(FileNotFoundError), _storage_errors(folder):
            _s3().delete_dir(_key(folder))


def remove_best_effort(addresses: Sequence[str]) -> None:
    """Removes folders as `remove` does, and ignores a store that fails; `sar-search gc` removes the rest later.

    Args:
        addresses: folders, or addresses in a bucket.
    """
    with suppress(StorageError):
        remove(addresses)


def remove_file(address: str) -> None:
    """Removes a file, if it exists.

    Args:
        address: a path, or an address in a bucket.

    Raises:
        OSError, StorageError: the file cannot be removed.
    """
    with suppress(FileNotFoundError):
        if not is_s3(address):
            Path(address).unlink()
            return
        with _storage_errors(address):
            _s3().delete_file(_key(address))


def _walk(address: str) -> list[tuple[str, int]]:
    """Returns path and bytes of every file below an S3 address, including the empty files that mark folders."""
    from pyarrow.fs import FileSelector, FileType

    with _storage_errors(address):
        found = _s3().get_file_info(FileSelector(_key(address), recursive=True, allow_not_found=True))
    return [(info.path, info.size) for info in found if info.type == FileType.File]


def _copy(address: str, source: str, target: str, **filesystems: Any) -> None:
    """Copies a file or folder by pyarrow, from or to a bucket.

    Args:
        address: the S3 address, for the message of an error.
        source, target: paths within the two file systems.
        **filesystems: `source_filesystem` or `destination_filesystem`; the other one is this machine's.
    """
    from pyarrow.fs import LocalFileSystem, copy_files

    whole = {"source_filesystem": LocalFileSystem(), "destination_filesystem": LocalFileSystem()} | filesystems
    with _storage_errors(address):
        # Uploads by several threads of pyarrow can hang: apache/arrow issue 32372.
        copy_files(source, target, **whole, chunk_size=64 * 2**20, use_threads="source_filesystem" in filesystems)


def _key(address: str) -> str:
    return address.removeprefix(SCHEME).rstrip("/")


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _s3(tries: int = TRIES) -> "S3FileSystem":
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return _open_filesystem(_endpoint(), region, os.environ.get("AWS_ACCESS_KEY_ID"), tries)


def _with_retries() -> "S3FileSystem":
    return _s3(PATIENT_TRIES)


@lru_cache(maxsize=8)
def _open_filesystem(endpoint: str | None, region: str | None, key: str | None, tries: int) -> "S3FileSystem":
    """Opens an S3 file system.

    Args:
        endpoint: the store's URL, or None for Amazon S3.
        region: the bucket's region, or None if no variable gives it.
        key: the access key id. It only distinguishes cached file systems; pyarrow looks credentials up
            itself.
        tries: attempts per request.
    """
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    class Opened(S3FileSystem):  # type: ignore[misc]
        def __reduce__(self) -> tuple[Any, ...]:
            # The receiving worker opens it anew from its own variables, because pyarrow's pickle drops the tries.
            return _s3, (tries,)

    options: dict[str, Any] = {"connect_timeout": CONNECT_S, "retry_strategy": AwsStandardS3RetryStrategy(tries)}
    if endpoint:
        # pyarrow does not read AWS_ENDPOINT_URL; stores other than Amazon's accept any region.
        options |= {"endpoint_override": endpoint, "region": region or "us-east-1"}
    elif region:
        options["region"] = region
    return Opened(**options)


def _has_credentials() -> bool:
    given = ["AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"]
    given += ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"]
    files = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
    return any(os.environ.get(name) for name in given) or any(
        Path(os.environ.get(name, usual)).expanduser().is_file() for name, usual in files.items()
    )


@contextmanager
def _storage_errors(address: str, before: str = "") -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"{before}{address}: {_why(str(error))}") from None


def _why(said: str) -> str:
    """Returns a sentence for the user from pyarrow's message of a failure."""
    where = _endpoint() or "Amazon S3"
    if "NETWORK_CONNECTION" in said:
        return f"{where} does not answer. Is it up, and is AWS_ENDPOINT_URL right?"
    if "NO_SUCH_BUCKET" in said:
        return f"there is no such bucket at {where}. Create it, or correct the address."
    if any(word in said for word in REFUSED):
        had = "with these credentials" if _has_credentials() else "without credentials"
        return f"{where} denies access {had}. Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their permissions."
    if "HTTP status 301" in said:
        return "the bucket is in another region. Set AWS_REGION to its region."
    return f"the request to {where} failed ({truncate(' '.join(said.split()), 300)})."
