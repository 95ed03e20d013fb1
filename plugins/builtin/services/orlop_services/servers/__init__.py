# SPDX-License-Identifier: Apache-2.0
"""The listening ends: gRPC on a unix socket and on TCP, ttrpc on a unix socket."""
