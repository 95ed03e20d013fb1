# SPDX-License-Identifier: Apache-2.0
"""Passing events on within the daemon."""
