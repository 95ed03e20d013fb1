# SPDX-License-Identifier: Apache-2.0
"""Image references: where an image is kept, and which one it is.

::

    reference = Reference.parse("registry.example:5000/team/app:1.2")
    assert (reference.host, reference.repository, reference.tag) == ("registry.example:5000", "team/app", "1.2")
    assert normalise("busybox") == "docker.io/library/busybox:latest"

`Reference.parse` takes full references only, as the daemon's image names are. `normalise` is for what people type.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from orlop.errors import InvalidArgument

DEFAULT_HOST: Final = "docker.io"
_DIGEST: Final = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,}")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_MAX_NAME: Final = 255


def check_digest(digest: str) -> None:
    """Raise `InvalidArgument` unless *digest* reads ``algorithm:hex``, and is of full length where that is known."""
    lengths = {"sha256": 64, "sha384": 96, "sha512": 128}
    algorithm, _, value = digest.partition(":")
    if not _DIGEST.fullmatch(digest) or len(value) != lengths.get(algorithm, len(value)):
        raise InvalidArgument(f'digest "{digest[:160]}": malformed; it must read like sha256:<64 hex digits>')


@dataclass(frozen=True, slots=True)
class Reference:
    """A full reference: ``host/repository[:tag][@digest]``. Tag and digest are empty where it has none."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take a full reference apart. Raises `InvalidArgument` with what is wrong."""
        rest, _, digest = text.partition("@")
        host, slash, path = rest.partition("/")
        if not slash:
            raise InvalidArgument(
                f'reference "{text}": no registry host in it; a full one reads like docker.io/library/busybox:latest'
            )
        repository, _, tag = path.partition(":")
        if not _HOST.fullmatch(host):
            raise InvalidArgument(f'reference "{text}": "{host}" is no host')
        if len(host) + len(repository) > _MAX_NAME or not _PATH.fullmatch(repository):
            raise InvalidArgument(
                f'reference "{text}": "{repository}" is no repository; use lower case letters, digits and / . _ -'
            )
        if ":" in path and not _TAG.fullmatch(tag):
            raise InvalidArgument(f'reference "{text}": "{tag}" is no tag')
        if "@" in text:
            check_digest(digest)
        return cls(host, repository, tag, digest)

    @property
    def locator(self) -> str:
        """Host and repository: where all versions of the image are."""
        return f"{self.host}/{self.repository}"

    @property
    def object(self) -> str:
        """What to ask the registry for: the digest if there is one, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.locator}{tag}{digest}"


def normalise(text: str) -> str:
    """The full reference for what people type, by Docker's rules.

    ``busybox`` is ``docker.io/library/busybox:latest``, ``me/app:1`` is ``docker.io/me/app:1``; a first part with a dot
    or a colon in it, or ``localhost``, is a host. Raises `InvalidArgument` for what cannot be a reference, a bare image
    id among it.
    """
    if re.fullmatch(r"[0-9a-f]{64}", text):
        raise InvalidArgument(f'reference "{text}": this is an image id; give a name')
    first, slash, rest = text.partition("/")
    host_like = "." in first or ":" in first or first == "localhost" or first != first.lower()
    if not slash or not host_like:
        host, path = DEFAULT_HOST, text
    else:
        host, path = first, rest
    if host == "index.docker.io":
        host = DEFAULT_HOST
    if host == DEFAULT_HOST and "/" not in path.partition("@")[0]:
        path = f"library/{path}"
    reference = Reference.parse(f"{host}/{path}")
    if not reference.object:
        reference = Reference(reference.host, reference.repository, "latest")
    return str(reference)


def familiar(text: str) -> str:
    """The shortest form that `normalise` turns back into *text*; what is no reference stays as it is."""
    try:
        reference = Reference.parse(text)
    except InvalidArgument:
        return text
    name = reference.locator
    if reference.host == DEFAULT_HOST:
        short = reference.repository.removeprefix("library/")
        name = reference.repository if "/" in short and short != reference.repository else short
        # A first part with a dot in it would read as a host.
        if "." in name.partition("/")[0] and "/" in name:
            name = reference.locator
    tag = f":{reference.tag}" if reference.tag and (reference.tag != "latest" or reference.digest) else ""
    return f"{name}{tag}" + (f"@{reference.digest}" if reference.digest else "")
