# SPDX-License-Identifier: Apache-2.0
"""The ``orlop`` command line: a small frame, and one plugin for each subcommand."""
