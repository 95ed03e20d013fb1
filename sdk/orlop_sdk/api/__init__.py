# SPDX-License-Identifier: Apache-2.0
"""The wire API: messages and service descriptors, generated from ``sdk/proto`` (``make proto``).

Modules lie where their ``.proto`` files do, so ``containerd.services.containers.v1`` is
``orlop_sdk.api.services.containers.v1.containers_pb2``. Names, numbers and types are those of containerd, CRI, NRI and
ttrpc.
"""
