# SPDX-License-Identifier: Apache-2.0
"""Figures, traces, and a look inside the running daemon."""
