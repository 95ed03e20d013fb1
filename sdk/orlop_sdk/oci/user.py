# SPDX-License-Identifier: Apache-2.0
"""Who a container's process runs as: names looked up in the container's own ``/etc/passwd`` and ``/etc/group``.

::

    with_user("app")        # the uid, group and supplementary groups of app
    with_user("1000:1000")  # no look-up needed

The root file system is mounted read-only for the look-up and its links cannot lead out of it. That needs root on the
daemon's host; elsewhere give numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from orlop.blocking import run_blocking
from orlop.errors import FailedPrecondition, InvalidArgument, NotFound
from orlop_sdk.linux import syscalls as sc
from orlop_sdk.linux.mount import readonly, temporary_mount
from orlop_sdk.oci.spec import Option, Spec, SpecContext, section

#: The longest account file that is read (bytes).
_MOST: Final = 4 << 20
_MAX_ID: Final = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Account:
    """Numbers of a user, its group, and all groups it is in."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def with_user(user: str) -> Option:
    """Run as *user*: ``name``, ``uid``, ``name:group`` or ``uid:gid``, in any mixture.

    Without a group it is the one in the container's ``/etc/passwd`` (0 for a number that is not there). Raises
    `NotFound` for an unknown name, `InvalidArgument` for what is neither.
    """

    async def option(spec: Spec, context: SpecContext) -> None:
        account = await run_blocking(_look_up, user, context)
        _set(spec, account)

    return option


def with_image_user(user: str) -> Option:
    """As `with_user` for the user an image names. Without one: root, in root's groups as far as they can be found."""
    if user:
        return with_user(user)

    async def option(spec: Spec, context: SpecContext) -> None:
        try:
            account = await run_blocking(_look_up, "0", context)
        except FailedPrecondition:
            account = Account(0, 0)
        _set(spec, account)

    return option


def with_user_id(uid: int, gid: int = 0) -> Option:
    """Run as these numbers, whoever that is."""

    def option(spec: Spec, context: SpecContext) -> None:
        _set(spec, Account(uid, gid))

    return option


def with_additional_groups(*groups: int) -> Option:
    """Be in these groups, too."""

    def option(spec: Spec, context: SpecContext) -> None:
        user = section(spec, "process", "user")
        _set(spec, Account(user.get("uid", 0), user.get("gid", 0), (*user.get("additionalGids", ()), *groups)))

    return option


def _set(spec: Spec, account: Account) -> None:
    user = section(spec, "process", "user")
    user["uid"], user["gid"] = account.uid, account.gid
    # The own group always is among them: leaving it out would let a process shed a group that denies it something.
    groups = dict.fromkeys(account.groups)
    user["additionalGids"] = list(groups) if account.gid in groups else [account.gid, *groups]


def parse_accounts(user: str, passwd: str, group: str) -> Account:
    """What *user* means, by the text of the two files. Raises as `with_user`."""
    name, colon, group_name = user.partition(":")
    if not name or (colon and not group_name):
        raise InvalidArgument(f'user "{user}": must read like name, uid, name:group or uid:gid')
    number = _number(name)
    found = next((row for row in _rows(passwd, 4) if row[0] == name or row[2] == str(number)), None)
    uid = _number(found[2]) if found else number
    if uid is None:
        raise NotFound(f'user "{name}": not in the container\'s /etc/passwd')
    gid = _number(found[3]) if found else 0
    if colon:
        gid = _number(group_name)
        if gid is None:
            gid = next((_number(row[2]) for row in _rows(group, 3) if row[0] == group_name), None)
        if gid is None:
            raise NotFound(f'group "{group_name}": not in the container\'s /etc/group')
    rows = [row for row in _rows(group, 4) if found and found[0] in row[3].split(",")]
    groups = tuple(value for value in (_number(row[2]) for row in rows) if value is not None)
    return Account(uid, gid or 0, groups)


def _look_up(user: str, context: SpecContext) -> Account:
    name, _, group = user.partition(":")
    if _number(name) is not None and (_number(group) is not None):
        return parse_accounts(user, "", "")
    if not context.rootfs:
        if _number(name) is not None and not group:
            return parse_accounts(user, "", "")
        raise FailedPrecondition(f'user "{user}": the root file system cannot be looked into; give uid:gid')
    try:
        with temporary_mount(readonly(context.rootfs)) as root:
            return parse_accounts(user, _read(str(root), "etc/passwd"), _read(str(root), "etc/group"))
    except OSError as error:
        raise FailedPrecondition(
            f'user "{user}": the root file system cannot be mounted here to look it up ({error}); give uid:gid'
        ) from error


def _read(root: str, path: str) -> str:
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Not blocking, since it may be a FIFO; and whatever is linked there lies below the root.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        fd = sc.openat2(path, flags, dir_fd=root_fd, resolve=sc.RESOLVE_IN_ROOT | sc.RESOLVE_NO_MAGICLINKS)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    finally:
        os.close(root_fd)
    with os.fdopen(fd, "rb") as file:
        data = file.read(_MOST + 1) or b""
    if len(data) > _MOST:
        raise InvalidArgument(f'"/{path}" of the container: longer than {_MOST} bytes')
    return data.decode(errors="replace")


def _rows(text: str, least: int) -> Iterator[list[str]]:
    for line in text.splitlines():
        row = line.strip().split(":")
        if len(row) >= least and not line.startswith("#"):
            yield row


def _number(text: str) -> int | None:
    if not text.isascii() or not text.isdecimal():
        return None
    value = int(text)
    if value > _MAX_ID:
        raise InvalidArgument(f'id "{text}": larger than {_MAX_ID}')
    return value
