# SPDX-License-Identifier: Apache-2.0
"""Linux system calls that Python's standard library lacks, and what is built on them.

Everything here is blocking and imports neither asyncio nor grpc nor pydantic, so that small processes may use it.
"""
