# SPDX-License-Identifier: Apache-2.0
"""Orlop's shim: the process that stays with a container, between a daemon and an OCI runtime.

The modules of the shim itself are small and import little, for every container pays for them: no asyncio, no grpc, no
protobuf, no pydantic. Only `orlop_shim.launcher` and `orlop_shim.plugins` run in the daemon.
"""
