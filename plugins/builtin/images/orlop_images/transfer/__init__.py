# SPDX-License-Identifier: Apache-2.0
"""Transfers of images within the daemon: `plugin` declares, `service` chooses, the others do."""
