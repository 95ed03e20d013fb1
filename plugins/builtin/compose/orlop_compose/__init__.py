# SPDX-License-Identifier: Apache-2.0
"""Builds of Orlop, composed out of distributions by a file that says which."""
