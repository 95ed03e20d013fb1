# SPDX-License-Identifier: Apache-2.0
"""The binary ``containerd-shim-orlop-v1``, as daemons call shims: ``start``, ``delete``, ``-info``, ``-v``.

It goes by any name, so a link named ``containerd-shim-runc-v2`` makes it serve ``io.containerd.runc.v2``.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

from orlop.errors import InvalidArgument, OrlopError
from orlop_sdk.hints import Final, NamedTuple, NoReturn
from orlop_shim import messages as pb
from orlop_shim import plain_socket as socket
from orlop_shim import runc_options
from orlop_shim.start import Request, group_of, listen, socket_path, write_address
from orlop_shim.wire import Values, WireError

_MOST_INPUT: Final = 10 << 20
_KILLED: Final = 137
_SWITCHES: Final = ("debug", "v", "version", "info")
_FLAGS: Final = ("namespace", "address", "publish-binary", "id", "bundle", "socket", "debug-socket")


class Arguments(NamedTuple):
    """A command line: flags in Go's style, then the action."""

    flags: dict[str, str]
    switches: frozenset[str]
    action: str


def main() -> None:
    """Run the command."""
    try:
        arguments = parse(sys.argv[1:])
        _run(arguments)
    except (OrlopError, OSError) as error:
        # Daemons show this as the reason; a shim's standard output is for its answer alone.
        sys.stderr.write(f"{os.path.basename(sys.argv[0])}: {error}\n")
        sys.stderr.flush()
        os._exit(1)


def parse(words: list[str]) -> Arguments:
    """Sort a command line. Raises `InvalidArgument`."""
    flags: dict[str, str] = {}
    switches = set()
    rest = list(words)
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).lstrip("-").partition("=")
        if name in _SWITCHES:
            if value not in ("false", "0"):
                switches.add(name)
        elif name in _FLAGS:
            if not equals and not rest:
                raise InvalidArgument(f"flag -{name}: needs a value")
            flags[name] = value if equals else rest.pop(0)
        else:
            raise InvalidArgument(f"flag -{name}: unknown; there are: -{', -'.join((*_FLAGS, *_SWITCHES))}")
    return Arguments(flags, frozenset(switches), rest[0] if rest else "")


def _run(arguments: Arguments) -> None:
    if arguments.switches & {"v", "version"}:
        from orlop_shim.info import version

        print(f"{os.path.basename(sys.argv[0])}:\n  Version:  {version()}")
    elif "info" in arguments.switches:
        from orlop_shim.info import describe

        _print(describe(_input()))
    elif arguments.action == "start":
        start(arguments, _input())
    elif arguments.action == "delete":
        _delete(arguments)
    else:
        raise InvalidArgument(f'action "{arguments.action}": unknown; daemons say start or delete')


def start(arguments: Arguments, given: bytes) -> None:
    """Bring up a shim, or find the one of this container's group, and print how to reach it."""
    request, form = read_request(arguments, given)
    endpoint = listen(socket_path(request, group_of(request.bundle, request.id)))
    write_address(request.bundle, endpoint.address)
    if endpoint.listener is not None and os.fork() == 0:
        _be_shim(request, endpoint.listener)
    _print(form_answer(endpoint.address, form))
    # The new process lives on; nothing of this one has to be put away.
    os._exit(0)


def _be_shim(request: Request, listener: socket.socket) -> NoReturn:
    from orlop_shim.anchor import hold
    from orlop_shim.shim import prepare

    shim = prepare()
    hold(lambda ties: shim.serve(ties, lambda: (request, listener)))


def read_request(arguments: Arguments, given: bytes) -> tuple[Request, str]:
    """What a daemon wants, and in which form it takes the answer: ``message``, ``json`` or ``address``.

    Raises `InvalidArgument` for no id or namespace.
    """
    flags = arguments.flags
    debug = "debug" in arguments.switches
    bundle = flags.get("bundle") or os.getcwd()
    params = read_params(given, flags.get("id", ""))
    if params is not None:
        options = next((item["value"] for item in params["extensions"] if item["value"]), None)
        request = Request(
            id=params["instance_id"],
            namespace=params["namespace"] or flags.get("namespace", ""),
            bundle=bundle,
            grpc_address=params["containerd_grpc_address"] or flags.get("address", ""),
            ttrpc_address=params["containerd_ttrpc_address"] or os.environ.get("TTRPC_ADDRESS", ""),
            socket_dir=params["socket_dir"],
            debug=debug or params["log_level"] < 0,
            shim_cgroup=_shim_cgroup(options),
        )
        form = "message"
    else:
        request = Request(
            id=flags.get("id", ""),
            namespace=flags.get("namespace") or os.environ.get("NAMESPACE", ""),
            bundle=bundle,
            grpc_address=flags.get("address", ""),
            ttrpc_address=os.environ.get("TTRPC_ADDRESS", ""),
            debug=debug,
            shim_cgroup=_shim_cgroup(_any(given)),
        )
        # Daemons that know more than an address say so in the environment.
        form = "json" if os.environ.get("MAX_SHIM_VERSION") else "address"
    if not request.id or not request.namespace:
        raise InvalidArgument("start: needs an id and a namespace; give -id and -namespace")
    return request, form


def read_params(given: bytes, id: str) -> Values | None:
    """``BootstrapParams``, or None where the input is something else: runtime options, or nothing.

    Options would pass for params, since both begin with two texts; what tells them apart is the id.
    """
    try:
        params = pb.BOOTSTRAP.decode(given)
    except WireError:
        return None
    return params if params["instance_id"] and id in ("", params["instance_id"]) else None


def form_answer(address: str, form: str) -> bytes:
    """How to reach a shim, as the daemon takes it."""
    if form == "message":
        return pb.BOOTSTRAP_RESULT.encode(version=3, address=address, protocol="ttrpc")
    if form == "json":
        return f'{{"version":3,"address":"{address}","protocol":"ttrpc"}}'.encode()
    return address.encode()


def _delete(arguments: Arguments) -> None:
    from orlop_shim.clean import clean

    bundle = arguments.flags.get("bundle") or os.getcwd()
    pid = clean(arguments.flags.get("id", ""), arguments.flags.get("namespace", ""), bundle)
    _print(pb.DELETED.encode(pid=pid, exit_status=_KILLED, exited_at=pb.timestamp_ns(time.time_ns())))


def _any(given: bytes) -> Values | None:
    try:
        return pb.ANY.decode(given)
    except WireError:
        return None


def _shim_cgroup(options: Values | None) -> str:
    with suppress(InvalidArgument):
        return str(runc_options.read(options)["shim_cgroup"])
    return ""


def _input() -> bytes:
    data = sys.stdin.buffer.read(_MOST_INPUT + 1)
    if len(data) > _MOST_INPUT:
        raise InvalidArgument(f"standard input: longer than {_MOST_INPUT} bytes")
    return data


def _print(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
