"""Where a sweep keeps its checkpoints: a folder, or an object store that all nodes reach."""

import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyarrow.fs import FileSystem, FileType

from ctxtune.errors import ConfigError

SCHEMES = ("s3", "gs", "gcs", "hdfs", "abfs", "abfss", "file")
_EXAMPLES = (
    "expected a path that all nodes share (/nfs/sweeps) or an object store (s3://BUCKET/sweeps, gs://BUCKET/sweeps)"
)


def check_storage(storage: str) -> str:
    """The storage address as it will be used: an absolute path, or an address without a slash at its end.

    Raises:
        ConfigError: it holds credentials or options, or is of no known kind.
    """
    if "://" not in storage:
        path = Path(storage).expanduser()
        if not path.is_absolute():
            raise ConfigError(f"--storage {storage}: {_EXAMPLES}; it must not depend on the working directory")
        return str(path)
    parts = urlsplit(storage)
    if parts.scheme not in SCHEMES:
        raise ConfigError(f"--storage {parts.scheme}://...: not a kind of storage that is known; {_EXAMPLES}")
    if parts.username or parts.password or parts.query or parts.fragment:
        # Not shown: it may hold a key.
        raise ConfigError(
            f"--storage {parts.scheme}://...: holds credentials or options, which would be written into journals and logs. "
            "Leave them out: keys come from the nodes' roles, AWS_SHARED_CREDENTIALS_FILE or the environment, another "
            "endpoint from AWS_ENDPOINT_URL, the region from AWS_DEFAULT_REGION"
        )
    return storage.rstrip("/")


def checkpoint_address(checkpoint: Any) -> str:
    """Where one of Ray's checkpoints lies, as it can be opened again: a path, or an address of an object store."""
    kind = checkpoint.filesystem.type_name
    return str(checkpoint.path) if kind == "local" else f"{kind.removesuffix('fs')}://{checkpoint.path}"


def try_storage(storage: str) -> str | None:
    """Write, read and delete a small file on the storage; what is wrong in words, None if nothing is."""
    name = f"ctxtune-check-{uuid.uuid4().hex}"
    try:
        if "://" in storage:
            system, root = FileSystem.from_uri(storage)
        else:
            Path(storage).mkdir(parents=True, exist_ok=True)
            system, root = FileSystem.from_uri(Path(storage).as_uri())
        if system.type_name == "local":
            system.create_dir(root)
        path = f"{root.rstrip('/')}/{name}"
        with system.open_output_stream(path) as stream:
            stream.write(name.encode())
        with system.open_input_stream(path) as stream:
            same = stream.read() == name.encode()
        system.delete_file(path)
        if not same or system.get_file_info(path).type != FileType.NotFound:
            return f"{storage} does not give back what was written to it"
    except (OSError, ValueError, ImportError) as error:
        return f"{storage} cannot be written ({str(error).strip().splitlines()[0]})"
    return None
