# SPDX-License-Identifier: Apache-2.0
"""The mount manager: mounts that need help before a runtime can use them, and the helpers it has for that."""
