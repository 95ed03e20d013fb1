# SPDX-License-Identifier: Apache-2.0
"""Answers questions about what is served out of the descriptors that the services' messages carry."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from orlop.errors import InvalidArgument, NotFound, OrlopError
from orlop.interfaces.rpc import RpcMethod, RpcService
from orlop_reflection.messages import PACKAGES, describe, response_class
from orlop_sdk.rpc import descriptors
from orlop_sdk.rpc.service import Service

T = TypeVar("T")
Services = Callable[[], Iterable[RpcService]]


class Reflection:
    """Both versions of the protocol as one service. *services* gives those that are mounted now."""

    def __init__(self, services: Services) -> None:
        catalogue = Catalogue(services)
        self._versions = [_version(describe(package), catalogue) for package in PACKAGES]

    def methods(self) -> Mapping[str, RpcMethod]:
        return {path: method for version in self._versions for path, method in version.methods().items()}


class Catalogue:
    """What there is to describe: services that are mounted, and everything in the same pools as their messages."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def names(self) -> list[str]:
        """The full names of the services, in order."""
        return sorted({path.split("/")[1] for path, _ in self._methods()})

    def file(self, name: str) -> FileDescriptor:
        """A file by its name. Raises `NotFound`."""
        return self._find(lambda pool: pool.FindFileByName(name), f'file "{name}"')

    def symbol(self, name: str) -> FileDescriptor:
        """The file that defines a service, method, message, field or enum. Raises `NotFound`."""
        # Messages that travel within others may not have been loaded yet.
        with contextlib.suppress(KeyError):
            descriptors.message(name)
        return self._find(lambda pool: _containing(pool, name), f'symbol "{name}"')

    def extension(self, message: str, number: int) -> FileDescriptor:
        """The file that defines an extension of a message. Raises `NotFound`."""

        def find(pool: DescriptorPool) -> FileDescriptor:
            found: Any = pool.FindExtensionByNumber(pool.FindMessageTypeByName(message), number)
            file: FileDescriptor = found.file
            return file

        return self._find(find, f'extension {number} of "{message}"')

    def extensions(self, message: str) -> list[int]:
        """The numbers of all extensions of a message. Raises `NotFound` for an unknown one."""

        def find(pool: DescriptorPool) -> list[int]:
            known = pool.FindAllExtensions(pool.FindMessageTypeByName(message))
            return sorted(each.number for each in known)

        return self._find(find, f'message "{message}"')

    def _methods(self) -> Iterator[tuple[str, RpcMethod]]:
        for service in self._services():
            yield from service.methods().items()

    def _find(self, find: Callable[[DescriptorPool], T], what: str) -> T:
        seen: set[int] = set()
        for _, method in self._methods():
            pool = method.request.DESCRIPTOR.file.pool
            if id(pool) not in seen:
                seen.add(id(pool))
                with contextlib.suppress(KeyError):
                    return find(pool)
        raise NotFound(f"{what}: not described here")


def _containing(pool: DescriptorPool, name: str) -> FileDescriptor:
    """The file that defines a symbol. Raises KeyError."""
    try:
        return pool.FindFileContainingSymbol(name)
    except KeyError:
        # Pools know no methods and fields by name; their owners do.
        owner, _, last = name.rpartition(".")
        file = pool.FindFileContainingSymbol(owner)
        with contextlib.suppress(KeyError):
            return file if last in pool.FindServiceByName(owner).methods_by_name else _missing(name)
        return file if last in pool.FindMessageTypeByName(owner).fields_by_name else _missing(name)


def _missing(name: str) -> NoReturn:
    raise KeyError(name)


def _version(file: FileDescriptor, catalogue: Catalogue) -> Service:
    """The service of one version of the protocol."""
    response = response_class(file)

    class ServerReflection(Service):
        service = file.services_by_name["ServerReflection"]

        async def ServerReflectionInfo(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
            sent: set[str] = set()
            async for request in requests:
                answer = response(valid_host=request.host, original_request=request)
                try:
                    _answer(answer, request, catalogue, sent)
                except OrlopError as error:
                    answer.error_response.error_code = error.code
                    answer.error_response.error_message = str(error)
                yield answer

    return ServerReflection()


def _answer(answer: Any, request: Any, catalogue: Catalogue, sent: set[str]) -> None:
    """Fill in the answer to one question. Files that the client has got in this call are not *sent* again."""
    match request.WhichOneof("message_request"):
        case "list_services":
            for name in catalogue.names():
                answer.list_services_response.service.add(name=name)
        case "file_by_filename":
            _add_file(answer, catalogue.file(request.file_by_filename), sent)
        case "file_containing_symbol":
            _add_file(answer, catalogue.symbol(request.file_containing_symbol), sent)
        case "file_containing_extension":
            wanted = request.file_containing_extension
            _add_file(answer, catalogue.extension(wanted.containing_type, wanted.extension_number), sent)
        case "all_extension_numbers_of_type":
            name = request.all_extension_numbers_of_type
            answer.all_extension_numbers_response.extension_number.extend(catalogue.extensions(name))
            answer.all_extension_numbers_response.base_type_name = name
        case _:
            raise InvalidArgument("reflection: the request asks for nothing; set one of its fields")


def _add_file(answer: Any, wanted: FileDescriptor, sent: set[str]) -> None:
    """The file, and all that it needs which the client does not have yet."""
    found = {wanted.name: wanted}
    waiting = [wanted]
    while waiting:
        for needed in waiting.pop().dependencies:
            if needed.name not in found:
                found[needed.name] = needed
                waiting.append(needed)
    files = [file for file in found.values() if file is wanted or file.name not in sent]
    sent.update(found)
    answer.file_descriptor_response.file_descriptor_proto.extend(file.serialized_pb for file in files)


_: type[RpcService] = Reflection
