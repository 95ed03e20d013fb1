# SPDX-License-Identifier: Apache-2.0
"""The orlop command line tool."""
