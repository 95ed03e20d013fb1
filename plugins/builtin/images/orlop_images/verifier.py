# SPDX-License-Identifier: Apache-2.0
"""Programs in a directory as image verifiers, called as containerd calls them.

**Protocol**: each program gets ``-name NAME -digest DIGEST -stdin-media-type application/vnd.oci.descriptor.v1+json``
and the image's descriptor as JSON on standard input. Exit status 0 lets the image in, any other one refuses it; what it
wrote to standard output is the reason. Standard error goes to the log, at the level debug.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orlop.blocking import Pool
from orlop.config import GoDuration, seconds
from orlop.errors import FailedPrecondition
from orlop.interfaces.transfer import ImageVerifier, Judgement, image_verifier
from orlop.plugin import InitContext, PluginConfig
from orlop.values import Descriptor
from orlop_images.process import readable, spawn

_DESCRIPTOR_TYPE: Final = "application/vnd.oci.descriptor.v1+json"
#: The most bytes of a program's output that are kept; the rest is read and dropped.
OUTPUT: Final = 32 << 10


class BinDirConfig(PluginConfig):
    """Settings of the verifier programs."""

    bin_dir: Path = Path("/opt/containerd/image-verifier/bin")
    """Every file in it is a program to ask, in the order of their names. Without the directory all images come in."""
    max_verifiers: int = 10
    """The most programs to ask; further ones are skipped, with a warning. Negative: all."""
    per_verifier_timeout: GoDuration = "10s"
    """How long one program may take; one that takes longer is killed, and the image refused."""


@dataclass(frozen=True, slots=True)
class _Ended:
    status: int
    output: str


class BinDirVerifier:
    """Asks all programs of a directory, which may change at any time. All have to agree."""

    def __init__(self, config: BinDirConfig, log: logging.Logger) -> None:
        self._config = config
        self._log = log
        self._timeout = seconds(config.per_verifier_timeout)
        self._pool = Pool("image-verifier", 2)

    async def verify(self, name: str, descriptor: Descriptor) -> Judgement:
        """Raises `FailedPrecondition` for a program that cannot be run, is killed, or takes too long."""
        programs = await self._pool.run(self._programs)
        if programs is None:
            return Judgement(True, f"image verifier directory {self._config.bin_dir} does not exist")
        if not programs:
            return Judgement(True, f"no image verifier binaries found in {self._config.bin_dir}")
        reasons = []
        for program in programs:
            ended = await self._ask(program, name, descriptor)
            if ended.status:
                return Judgement(
                    False, f"verifier {program.name} rejected image (exit code {ended.status}): {ended.output}"
                )
            reasons.append(f"{program.name} => {ended.output}")
        return Judgement(True, ", ".join(reasons))

    async def close(self) -> None:
        """Free the threads. May be called twice."""
        self._pool.close()

    def _programs(self) -> list[Path] | None:
        try:
            found = sorted(self._config.bin_dir.iterdir())
        except FileNotFoundError:
            return None
        most = self._config.max_verifiers
        if 0 <= most < len(found):
            self._log.warning("%s: %d programs, only %d are asked", self._config.bin_dir, len(found), most)
            return found[:most]
        return found

    async def _ask(self, program: Path, name: str, descriptor: Descriptor) -> _Ended:
        arguments = [str(program), "-name", name, "-digest", descriptor.digest, "-stdin-media-type", _DESCRIPTOR_TYPE]
        starting = asyncio.ensure_future(self._pool.run(_Program.start, arguments, _json(descriptor)))
        try:
            running = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await (await starting).close()  # the thread went on, and a program must not
            raise
        except OSError as error:
            raise FailedPrecondition(f"verifier {program.name}: cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(self._timeout):
                status, output, said = await running.outcome()
        except TimeoutError:
            raise FailedPrecondition(
                f"verifier {program.name}: gave no judgement within {self._config.per_verifier_timeout}"
            ) from None
        finally:
            await running.close()
        for line in said.splitlines():
            self._log.debug("%s: %s", program.name, line)
        if status < 0:
            raise FailedPrecondition(f"verifier {program.name}: was ended by signal {-status}")
        return _Ended(status, output.strip())


class _Program:
    """One program at work."""

    def __init__(self, pid: int, output: int, said: int) -> None:
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._output = output
        self._said = said
        self._status: int | None = None

    @classmethod
    def start(cls, arguments: list[str], given: bytes) -> _Program:
        """Start a program in a process group of its own. Blocks for about a millisecond."""
        with contextlib.ExitStack() as opened:
            stdin = os.memfd_create("descriptor", os.MFD_CLOEXEC)
            opened.callback(os.close, stdin)
            with open(stdin, "wb", closefd=False) as file:
                file.write(given)
            os.lseek(stdin, 0, os.SEEK_SET)
            ours = []
            theirs = []
            for _ in range(2):
                read, write = os.pipe2(os.O_CLOEXEC)
                opened.callback(os.close, write)
                os.set_blocking(read, False)
                ours.append(read)
                theirs.append(write)
            try:
                pid = spawn(arguments, {0: stdin, 1: theirs[0], 2: theirs[1]}, os.environ)
                return cls(pid, *ours)
            except BaseException:
                for each in ours:
                    os.close(each)
                raise

    async def outcome(self) -> tuple[int, str, str]:
        """Exit status (negative: a signal), standard output and standard error, once it has ended."""
        async with asyncio.TaskGroup() as group:
            output = group.create_task(_drain(self._output))
            said = group.create_task(_drain(self._said))
            group.create_task(readable(self._pidfd))
        return await self._reap(), output.result(), said.result()

    async def close(self) -> None:
        """Kill it, with all that it started, and free everything. May be called twice."""
        if self._pidfd < 0:
            return
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
            await self._reap()
        for descriptor in (self._pidfd, self._output, self._said):
            os.close(descriptor)
        self._pidfd = -1

    async def _reap(self) -> int:
        if self._status is None:
            await readable(self._pidfd)
            # What it started goes with it: while it is not reaped, the number of its group is nobody else's.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
            self._status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])  # noqa: ASYNC222  # it has ended
        return self._status


async def _drain(descriptor: int) -> str:
    """All that comes, of which the first part is kept."""
    kept = bytearray()
    cut = False
    while True:
        await readable(descriptor)
        try:
            data = os.read(descriptor, OUTPUT)
        except BlockingIOError:
            continue
        if not data:
            break
        cut = cut or len(kept) + len(data) > OUTPUT
        kept += data[: OUTPUT - len(kept)]
    return bytes(kept).decode(errors="replace") + ("(truncated)" if cut else "")


def _json(descriptor: Descriptor) -> bytes:
    document: dict[str, object] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if descriptor.annotations:
        document["annotations"] = dict(descriptor.annotations)
    return json.dumps(document).encode() + b"\n"


@image_verifier("bindir", config=BinDirConfig)
async def bindir(ctx: InitContext[BinDirConfig]) -> ImageVerifier:
    """Programs in a directory, as containerd has them."""
    return BinDirVerifier(ctx.config, ctx.log)


_: type[ImageVerifier] = BinDirVerifier
