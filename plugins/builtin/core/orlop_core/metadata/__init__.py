# SPDX-License-Identifier: Apache-2.0
"""The metadata store: who owns what, in which namespace, and what nobody needs any more."""
