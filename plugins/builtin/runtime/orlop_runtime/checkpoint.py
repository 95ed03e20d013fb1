# SPDX-License-Identifier: Apache-2.0
"""Checkpoints between directories, which shims read and write, and content, which clients keep."""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import tempfile
import uuid
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from orlop.blocking import run_blocking
from orlop.errors import AlreadyExists, DataLoss, InvalidArgument, OrlopError
from orlop.interfaces.content import ContentStore
from orlop.interfaces.runtime import Task
from orlop.values import AnyMessage, Descriptor
from orlop_sdk.api.types.runc.options.oci_pb2 import CheckpointOptions
from orlop_sdk.convert.common import any_to_wire

CRIU_TAR: Final = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
CONFIG_PROTO: Final = "application/vnd.containerd.container.checkpoint.config.v1+proto"
_OPTIONS_URL: Final = "containerd.runc.v1.CheckpointOptions"
_CHUNK: Final = 1 << 20


def image_path(options: AnyMessage | None) -> str:
    """The directory that checkpoint options name, or "". Raises `InvalidArgument` for a relative or garbled one."""
    if options is None or options.type_url.rpartition("/")[2] != _OPTIONS_URL:
        return ""
    try:
        path = CheckpointOptions.FromString(options.value).image_path
    except DecodeError as error:
        raise InvalidArgument(f"checkpoint options: not a {_OPTIONS_URL}") from error
    if path and not os.path.isabs(path):
        raise InvalidArgument(f'checkpoint options: image_path "{path}" must be absolute')
    return path


async def store(content: ContentStore, task: Task, options: AnyMessage | None, spec: AnyMessage) -> list[Descriptor]:
    """Checkpoint a task into content: the images as a tar, and the spec that a restored container needs."""
    place = Path(await run_blocking(tempfile.mkdtemp, prefix="orlop-checkpoint-"))
    try:
        images = place / "images"
        await run_blocking(images.mkdir)
        await task.checkpoint(str(images), options)
        archive = place / "criu.tar"
        await run_blocking(_pack, images, archive)
        message = any_to_wire(spec)
        return [
            await _write(content, CRIU_TAR, archive),
            await _write(content, CONFIG_PROTO, message.SerializeToString() if message else b""),
        ]
    finally:
        await run_blocking(shutil.rmtree, place)


class Restores:
    """Directories with the images of checkpoints that are being restored.

    The shim needs one until its container was started, and nobody tells when that is: so each lasts as long as its
    task, and is removed when the next restore finds the task gone.
    """

    def __init__(self, state: Path) -> None:
        self._state = state / "restore"

    def directories(self) -> list[tuple[str, str]]:
        """Namespace and container of all there are. Blocks."""
        if not self._state.is_dir():
            return []
        return [(place.name, directory.name) for place in self._state.iterdir() for directory in place.iterdir()]

    def remove(self, namespace: str, container: str) -> None:
        """Remove one. Blocks."""
        shutil.rmtree(self._state / namespace / container, ignore_errors=True)

    async def extract(self, content: ContentStore, descriptor: Descriptor, namespace: str, container: str) -> str:
        """Fetch a checkpoint from content and unpack it; returns the directory.

        Raises `InvalidArgument` for what is no checkpoint, `NotFound`, `DataLoss`.
        """
        if descriptor.media_type != CRIU_TAR:
            raise InvalidArgument(
                f'checkpoint {descriptor.digest}: media type "{descriptor.media_type}" is not {CRIU_TAR}'
            )
        directory = self._state / namespace / container
        await run_blocking(self.remove, namespace, container)
        await run_blocking(directory.mkdir, mode=0o700, parents=True)
        archive = directory.with_name(f"{container}.tar")
        try:
            await _read(content, descriptor, archive)
            await run_blocking(_unpack, archive, directory)
        except tarfile.TarError as error:
            await run_blocking(self.remove, namespace, container)
            raise DataLoss(f"checkpoint {descriptor.digest}: {error}") from error
        except (OrlopError, OSError):
            await run_blocking(self.remove, namespace, container)
            raise
        finally:
            await run_blocking(archive.unlink, missing_ok=True)
        return str(directory)


async def _write(content: ContentStore, media_type: str, source: Path | bytes) -> Descriptor:
    size = len(source) if isinstance(source, bytes) else (await run_blocking(source.stat)).st_size
    writer = await content.writer(f"checkpoint-{uuid.uuid4()}", total=size)
    try:
        if isinstance(source, bytes):
            await writer.write(source)
        else:
            with await run_blocking(source.open, "rb") as file:
                while data := await run_blocking(file.read, _CHUNK):
                    await writer.write(data)
        digest = writer.digest()
        # The same checkpoint as before is what we want, too.
        with contextlib.suppress(AlreadyExists):
            await writer.commit(size=size)
        return Descriptor(media_type, digest, size)
    finally:
        await writer.close()


async def _read(content: ContentStore, descriptor: Descriptor, target: Path) -> None:
    reader = await content.reader(descriptor)
    try:
        with await run_blocking(target.open, "wb") as file:
            offset = 0
            while offset < reader.size:
                data = await reader.read_at(offset, _CHUNK)
                await run_blocking(file.write, data)
                offset += len(data)
    finally:
        await reader.close()


def _pack(directory: Path, archive: Path) -> None:
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(directory.iterdir()):
            tar.add(path, arcname=path.name)


def _unpack(archive: Path, directory: Path) -> None:
    with tarfile.open(archive, "r:") as tar:
        for member in tar:
            name = os.path.normpath(member.name)
            if name == "." and member.isdir():
                continue
            # What CRIU writes is plain files side by side; anything else might lead out of the directory.
            if not member.isreg() or name == ".." or "/" in name:
                raise tarfile.TarError(f'"{member.name}": is not a plain file at the top')
            source = tar.extractfile(member)
            assert source is not None, "it is a plain file"
            with source, open(directory / name, "wb", opener=_private) as target:
                shutil.copyfileobj(source, target, _CHUNK)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, mode=0o600)
