# SPDX-License-Identifier: Apache-2.0
"""Conformance suites for plugin authors: one module an interface, run by pytest against any implementation."""

import pkgutil

import pytest

# Suites are tests that live outside of test files; their asserts shall explain themselves all the same.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))
