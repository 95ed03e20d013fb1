# SPDX-License-Identifier: Apache-2.0
"""Programs that take a container's output: ``binary:///path?key=value`` and ``binary-v2://``.

A logger reads stdout from descriptor 3 and stderr from 4, and says on 5 that it is ready. It ends when both have
ended, or when it is told to.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from orlop.errors import InvalidArgument, NotFound, Unavailable
from orlop_sdk.hints import Final
from orlop_shim import files
from orlop_shim.bag import Bag
from orlop_shim.children import Children, Target
from orlop_shim.loop import READ, Loop, Promise
from orlop_shim.relief import own_end

LOGGER_SCHEMES: Final = ("binary", "binary-v2")
# Seconds to become ready, and to end after SIGTERM.
_READY: Final = 30.0
_STOP: Final = 12.0


class Logger:
    """One program: `start` it, wait until it is `ready`, and `stop` it in the end."""

    def __init__(self, loop: Loop, children: Children, uri: str) -> None:
        # Only here: most containers have no logger.
        from urllib.parse import parse_qsl, unquote

        self.uri: Final = uri
        scheme, _, rest = uri.partition("://")
        path, _, query = rest.partition("?")
        self._path = unquote(path)
        if not self._path.startswith("/"):
            raise InvalidArgument(f'log URI "{uri}": needs the absolute path of a program')
        self._arguments = [part for pair in parse_qsl(query, keep_blank_values=True) for part in pair]
        self._must_say = scheme == "binary-v2"
        self._loop = loop
        self._children = children
        self._pid = 0
        self._target: Target | None = None
        self._word = -1
        #: Further ends of its two pipes, for `orlop_shim.relief.Relief`; the caller closes them.
        self.outlets: list[int] = []
        #: Kept when it has ended, or was never there.
        self.ended = Promise()

    async def start(self, container: str, namespace: str) -> tuple[int, int]:
        """Start it. Returns the pipes that it reads stdout and stderr from; the caller closes them."""
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        (out, to_out), (err, to_err), (word, to_word) = pipes
        try:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            try:
                self._pid, ended = self._children.spawn(
                    [self._path, *self._arguments],
                    {0: null, 1: null, 2: null, 3: out, 4: err, 5: to_word},
                    {"CONTAINER_ID": container, "CONTAINER_NAMESPACE": namespace},
                    group=0,
                )
            finally:
                os.close(null)
        except OSError as error:
            for fd in (to_out, to_err, word):
                os.close(fd)
            self.ended.set()
            raise NotFound(f'logger "{self._path}": {error.strerror}; install it') from error
        else:
            self.outlets = [own_end(out), own_end(err)]
        finally:
            for fd in (out, err, to_word):
                os.close(fd)
        self._word = word
        self._target = Target.of(self._pid)
        ended.then(self._finish)
        return to_out, to_err

    def _finish(self) -> None:
        if self._target is not None:
            self._target.close()
        self.ended.set()

    def save(self, bag: Bag) -> tuple[int, int] | None:
        """What `restore` takes; None when it has ended."""
        if self.ended.done or self._target is None:
            return None
        return self._pid, self._target.save(bag)

    def restore(self, saved: tuple[int, int] | None, bag: Bag) -> None:
        """Be what another worker has started."""
        if saved is None:
            self.ended.set()
            return
        self._pid, target = saved
        self._target = Target.restored(self._pid, target, bag)
        self._children.ended(self._pid).then(self._finish)

    async def ready(self) -> None:
        """Wait for it. Raises `Unavailable` when it does not become ready."""
        said = Promise()
        os.set_blocking(self._word, False)
        self._loop.watch(self._word, READ, lambda _: said.set(os.read(self._word, 1)))
        in_time = await self._loop.within(_READY, said)
        self._loop.unwatch(self._word)
        os.close(self._word)
        self._word = -1
        if not in_time:
            raise Unavailable(f'logger "{self._path}": not ready after {_READY:g} seconds')
        if self._must_say and not said.result():
            raise Unavailable(f'logger "{self._path}": ended before it was ready')

    def sign(self) -> object:
        """The sign of its life (`orlop_shim.relief.Sign`): how much it has read, of anything."""
        if self.ended.done:
            return None
        return files.read_or_nothing(f"/proc/{self._pid}/io").partition(b"\n")[0]

    def stop(self) -> None:
        """Have it end: with SIGTERM, and with SIGKILL if it does not."""
        if self._pid and not self.ended.done:
            self._signal(signal.SIGTERM)
            self._loop.later(_STOP, lambda: self._signal(signal.SIGKILL))

    def _signal(self, number: int) -> None:
        if self._target is not None:
            with suppress(ProcessLookupError):
                self._target.send(number)
