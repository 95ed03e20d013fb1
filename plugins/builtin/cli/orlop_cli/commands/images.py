# SPDX-License-Identifier: Apache-2.0
"""Subcommands about images: ``pull``, ``push``, ``images``, ``rmi``, ``tag``, ``import``, ``export``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orlop.errors import AlreadyExists, FailedPrecondition, NotFound, OrlopError
from orlop.interfaces.introspection import CommandPlugin, command
from orlop.plugin import InitContext
from orlop.values import Image
from orlop_cli.console import Console, size
from orlop_sdk.client.client import Client
from orlop_sdk.registry.reference import Reference, familiar, normalise

if TYPE_CHECKING:
    from orlop_sdk.registry.resolver import RegistryResolver


def _registry_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plain-http", action="store_true", help="talk HTTP to the registry, without TLS")
    parser.add_argument("--user", metavar="NAME[:PASSWORD]", help="log in with this; docker login's otherwise")
    parser.add_argument(
        "--hosts-dir", type=Path, action="append", help="directory of hosts.toml files (/etc/containerd/certs.d)"
    )


def _resolver(arguments: argparse.Namespace) -> RegistryResolver:
    # The HTTP client takes a while to import, which subcommands that stay here need not wait for.
    from orlop_sdk.registry import Credential, DirectoryHosts, RegistryResolver, docker_config, fixed

    folders = arguments.hosts_dir or [Path("/etc/containerd/certs.d"), Path("/etc/docker/certs.d")]
    credentials = docker_config()
    if arguments.user:
        name, _, password = arguments.user.partition(":")
        secret = password or _ask_password(name)
        credentials = fixed(Credential(name, secret), Reference.parse(normalise(arguments.image)).host)
    return RegistryResolver(hosts=DirectoryHosts(folders, plain_http=arguments.plain_http), credentials=credentials)


def _ask_password(name: str) -> str:
    import getpass

    return getpass.getpass(f"password of {name}: ")


async def find(client: Client, name: str) -> Image:
    """An image by the name that people type, or by exactly the name it has. Raises `NotFound` with a remedy."""
    with client.scope():
        for candidate in dict.fromkeys((name, _full(name))):
            try:
                return await client.images.get(candidate)
            except NotFound:
                continue
    raise NotFound(f'image "{name}": not found; orlop pull {name} fetches it')


def _full(name: str) -> str:
    try:
        return normalise(name)
    except OrlopError:
        return name


class PullCommand:
    """``pull``."""

    @property
    def summary(self) -> str:
        return "fetch an image from a registry and unpack it"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("image", help="such as busybox, quay.io/team/app:1, or NAME@sha256:...")
        parser.add_argument("--platform", help="such as linux/arm64; this host's if not given")
        parser.add_argument("--snapshotter", help="where to unpack; the daemon's default if not given")
        parser.add_argument("--no-unpack", action="store_true", help="only fetch")
        _registry_arguments(parser)

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        image = console.run(self._pull(arguments, console))
        console.result(f"{image.name} {image.target.digest}", {"name": image.name, "target": image.target})
        return 0

    async def _pull(self, arguments: argparse.Namespace, console: Console) -> Image:
        async with _resolver(arguments) as resolver, console.client() as client:
            with console.progress() as progress:
                return await client.pull(
                    normalise(arguments.image),
                    arguments.platform,
                    resolver=resolver,
                    snapshotter="" if arguments.no_unpack else arguments.snapshotter,
                    progress=progress.show,
                )


class PushCommand:
    """``push``."""

    @property
    def summary(self) -> str:
        return "send an image to a registry"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("image", help="where to: registry, repository and tag")
        parser.add_argument("source", nargs="?", help="the image to send, if its name is another")
        parser.add_argument("--platform", default="all", help="send one variant only")
        _registry_arguments(parser)

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        target = console.run(self._push(arguments, console))
        console.result(target.digest, {"target": target})
        return 0

    async def _push(self, arguments: argparse.Namespace, console: Console) -> Any:
        async with _resolver(arguments) as resolver, console.client() as client:
            image = await find(client, arguments.source or arguments.image)
            with console.progress() as progress:
                return await client.push(
                    normalise(arguments.image),
                    arguments.platform,
                    image=image.name,
                    resolver=resolver,
                    progress=progress.show,
                )


class ImagesCommand:
    """``images``."""

    @property
    def summary(self) -> str:
        return "list images"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("filters", nargs="*", metavar="FILTER", help='such as name~=busybox or labels."team"==web')
        parser.add_argument("-q", "--quiet", action="store_true", help="print names only")

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        rows = console.run(self._rows(arguments, console))
        columns = ("image", "digest", "size", "platforms", "created")
        console.table(rows, columns, "name" if arguments.quiet else "", _shown)
        return 0

    async def _rows(self, arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
        async with console.client() as client:
            with client.scope():
                images = await client.images.list(arguments.filters)
            return list(await asyncio.gather(*(self._row(client, image) for image in images)))

    async def _row(self, client: Client, image: Image) -> dict[str, Any]:
        row: dict[str, Any] = {
            "name": image.name,
            "image": familiar(image.name),
            "digest": image.target.digest,
            "target": image.target,
            "created": image.created_at,
            "labels": dict(image.labels),
            "size": None,
            "complete": False,
            "platforms": (),
        }
        try:
            status = await client.check_image(image.name, "all")
            manifest = await client.manifest(image.name)
        except OrlopError:  # not all of it is here, or nothing for this host: the row says so
            return row
        row |= {"size": status.size, "complete": status.complete}
        row["platforms"] = (str(manifest.platform),) if manifest.platform else ()
        return row


def _shown(row: Mapping[str, Any]) -> Mapping[str, Any]:
    amount = "" if row["size"] is None else size(row["size"])
    note = "" if row["complete"] else "(incomplete)"
    return {**row, "digest": row["digest"].partition(":")[2][:12], "size": f"{amount} {note}".strip()}


class RemoveImageCommand:
    """``rmi``."""

    @property
    def summary(self) -> str:
        return "remove images"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("images", nargs="+", metavar="IMAGE")
        parser.add_argument("--async", dest="sync", action="store_false", help="do not wait until the space is free")

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        removed = console.run(self._remove(arguments, console))
        console.result("\n".join(removed), removed)
        return 0

    async def _remove(self, arguments: argparse.Namespace, console: Console) -> list[str]:
        async with console.client() as client:
            names = [(await find(client, name)).name for name in arguments.images]
            for name in names:
                await client.remove_image(name, sync=arguments.sync and name == names[-1])
        return names


class TagCommand:
    """``tag``."""

    @property
    def summary(self) -> str:
        return "give an image another name"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("image")
        parser.add_argument("names", nargs="+", metavar="NAME")
        parser.add_argument("-f", "--force", action="store_true", help="take the name from another image if need be")

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        console.run(self._tag(arguments, console))
        return 0

    async def _tag(self, arguments: argparse.Namespace, console: Console) -> None:
        async with console.client() as client:
            image = await find(client, arguments.image)
            for name in arguments.names:
                try:
                    await client.tag(image.name, normalise(name), force=arguments.force)
                except AlreadyExists as error:
                    raise AlreadyExists(f"{error}; --force takes the name from it") from error


class ImportCommand:
    """``import``."""

    @property
    def summary(self) -> str:
        return "take images from an OCI or Docker archive"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("archive", help="a file, compressed or not; - is standard input")
        parser.add_argument("--no-unpack", action="store_true", help="do not unpack")
        parser.add_argument("--snapshotter", help="where to unpack; the daemon's default if not given")

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        images = console.run(self._import(arguments, console))
        console.result(
            "\n".join(image.name for image in images), [{"name": i.name, "target": i.target} for i in images]
        )
        return 0

    async def _import(self, arguments: argparse.Namespace, console: Console) -> list[Image]:
        source = sys.stdin.buffer if arguments.archive == "-" else Path(arguments.archive)
        if source is sys.stdin.buffer and sys.stdin.isatty():
            raise FailedPrecondition("import: standard input is a terminal; send an archive there, or name a file")
        if isinstance(source, Path) and not source.exists():
            raise NotFound(f'archive "{source}": no such file')
        async with console.client() as client:
            with console.progress() as progress:
                where = "" if arguments.no_unpack else arguments.snapshotter
                return await client.import_images(source, snapshotter=where, progress=progress.show)


class ExportCommand:
    """``export``."""

    @property
    def summary(self) -> str:
        return "write images into an archive that docker load takes too"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("archive", help="the file to write; - is standard output")
        parser.add_argument("images", nargs="+", metavar="IMAGE")
        parser.add_argument("--platform", default="all", help="one variant only")

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        console.run(self._export(arguments, console))
        return 0

    async def _export(self, arguments: argparse.Namespace, console: Console) -> None:
        target = sys.stdout.buffer if arguments.archive == "-" else Path(arguments.archive)
        if target is sys.stdout.buffer and sys.stdout.isatty():
            raise FailedPrecondition("export: standard output is a terminal; redirect it, or name a file")
        async with console.client() as client:
            names = [(await find(client, name)).name for name in arguments.images]
            with console.progress() as progress:
                await client.export_images(target, *names, platform=arguments.platform, progress=progress.show)


@command("pull")
async def pull(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop pull``."""
    return PullCommand()


@command("push")
async def push(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop push``."""
    return PushCommand()


@command("images")
async def images(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop images``."""
    return ImagesCommand()


@command("rmi")
async def rmi(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop rmi``."""
    return RemoveImageCommand()


@command("tag")
async def tag(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop tag``."""
    return TagCommand()


@command("import")
async def import_(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop import``."""
    return ImportCommand()


@command("export")
async def export(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop export``."""
    return ExportCommand()
