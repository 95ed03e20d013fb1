# SPDX-License-Identifier: Apache-2.0
"""The built-in subcommands, a module for each noun. Each is a plugin of type ``io.orlop.command.v1``."""
