# SPDX-License-Identifier: Apache-2.0
"""What every plugin that keeps things on a local disk needs, so that its author writes the rest only.

==================================  ===================================================================================
`orlop_sdk.storage.snapshots`       the records: keys, parents, kinds, labels, usage, times, and all rules about them
`orlop_sdk.storage.directories`     a whole snapshotter on top of them, but for what its directories hold
`orlop_sdk.storage.lost`            where a repair puts what it takes away but must not destroy
`orlop_sdk.storage.serial`          one thread for what must have a single user, with group commit
==================================  ===================================================================================
"""
