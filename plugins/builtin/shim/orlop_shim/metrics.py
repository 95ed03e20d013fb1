# SPDX-License-Identifier: Apache-2.0
"""Resource use as daemons and their clients know it: ``io.containerd.cgroups.v1`` and ``.v2``."""

from __future__ import annotations

from orlop_sdk.hints import Final
from orlop_shim.wire import DOUBLE, TEXT, UINT, UINT32, Schema, many, message

_V1_HUGETLB_STAT: Final = Schema(
    usage=(1, UINT),
    max=(2, UINT),
    failcnt=(3, UINT),
    pagesize=(4, TEXT),
)
_V1_PIDS_STAT: Final = Schema(
    current=(1, UINT),
    limit=(2, UINT),
)
_V1_CPU_USAGE: Final = Schema(
    total=(1, UINT),
    kernel=(2, UINT),
    user=(3, UINT),
    per_cpu=(4, many(UINT)),
)
_V1_THROTTLE: Final = Schema(
    periods=(1, UINT),
    throttled_periods=(2, UINT),
    throttled_time=(3, UINT),
)
_V1_CPU_STAT: Final = Schema(
    usage=(1, message(_V1_CPU_USAGE)),
    throttling=(2, message(_V1_THROTTLE)),
)
_V1_MEMORY_ENTRY: Final = Schema(
    limit=(1, UINT),
    usage=(2, UINT),
    max=(3, UINT),
    failcnt=(4, UINT),
)
_V1_MEMORY_STAT: Final = Schema(
    cache=(1, UINT),
    rss=(2, UINT),
    rss_huge=(3, UINT),
    mapped_file=(4, UINT),
    dirty=(5, UINT),
    writeback=(6, UINT),
    pg_pg_in=(7, UINT),
    pg_pg_out=(8, UINT),
    pg_fault=(9, UINT),
    pg_maj_fault=(10, UINT),
    inactive_anon=(11, UINT),
    active_anon=(12, UINT),
    inactive_file=(13, UINT),
    active_file=(14, UINT),
    unevictable=(15, UINT),
    hierarchical_memory_limit=(16, UINT),
    hierarchical_swap_limit=(17, UINT),
    total_cache=(18, UINT),
    total_rss=(19, UINT),
    total_rss_huge=(20, UINT),
    total_mapped_file=(21, UINT),
    total_dirty=(22, UINT),
    total_writeback=(23, UINT),
    total_pg_pg_in=(24, UINT),
    total_pg_pg_out=(25, UINT),
    total_pg_fault=(26, UINT),
    total_pg_maj_fault=(27, UINT),
    total_inactive_anon=(28, UINT),
    total_active_anon=(29, UINT),
    total_inactive_file=(30, UINT),
    total_active_file=(31, UINT),
    total_unevictable=(32, UINT),
    usage=(33, message(_V1_MEMORY_ENTRY)),
    swap=(34, message(_V1_MEMORY_ENTRY)),
    kernel=(35, message(_V1_MEMORY_ENTRY)),
    kernel_tcp=(36, message(_V1_MEMORY_ENTRY)),
)
_V1_BLKIO_ENTRY: Final = Schema(
    op=(1, TEXT),
    device=(2, TEXT),
    major=(3, UINT),
    minor=(4, UINT),
    value=(5, UINT),
)
_V1_BLKIO_STAT: Final = Schema(
    io_service_bytes_recursive=(1, many(message(_V1_BLKIO_ENTRY))),
    io_serviced_recursive=(2, many(message(_V1_BLKIO_ENTRY))),
    io_queued_recursive=(3, many(message(_V1_BLKIO_ENTRY))),
    io_service_time_recursive=(4, many(message(_V1_BLKIO_ENTRY))),
    io_wait_time_recursive=(5, many(message(_V1_BLKIO_ENTRY))),
    io_merged_recursive=(6, many(message(_V1_BLKIO_ENTRY))),
    io_time_recursive=(7, many(message(_V1_BLKIO_ENTRY))),
    sectors_recursive=(8, many(message(_V1_BLKIO_ENTRY))),
)
_V1_RDMA_ENTRY: Final = Schema(
    device=(1, TEXT),
    hca_handles=(2, UINT32),
    hca_objects=(3, UINT32),
)
_V1_RDMA_STAT: Final = Schema(
    current=(1, many(message(_V1_RDMA_ENTRY))),
    limit=(2, many(message(_V1_RDMA_ENTRY))),
)
_V1_NETWORK_STAT: Final = Schema(
    name=(1, TEXT),
    rx_bytes=(2, UINT),
    rx_packets=(3, UINT),
    rx_errors=(4, UINT),
    rx_dropped=(5, UINT),
    tx_bytes=(6, UINT),
    tx_packets=(7, UINT),
    tx_errors=(8, UINT),
    tx_dropped=(9, UINT),
)
_V1_CGROUP_STATS: Final = Schema(
    nr_sleeping=(1, UINT),
    nr_running=(2, UINT),
    nr_stopped=(3, UINT),
    nr_uninterruptible=(4, UINT),
    nr_io_wait=(5, UINT),
)
_V1_MEMORY_OOM_CONTROL: Final = Schema(
    oom_kill_disable=(1, UINT),
    under_oom=(2, UINT),
    oom_kill=(3, UINT),
)
V1: Final = Schema(
    hugetlb=(1, many(message(_V1_HUGETLB_STAT))),
    pids=(2, message(_V1_PIDS_STAT)),
    cpu=(3, message(_V1_CPU_STAT)),
    memory=(4, message(_V1_MEMORY_STAT)),
    blkio=(5, message(_V1_BLKIO_STAT)),
    rdma=(6, message(_V1_RDMA_STAT)),
    network=(7, many(message(_V1_NETWORK_STAT))),
    cgroup_stats=(8, message(_V1_CGROUP_STATS)),
    memory_oom_control=(9, message(_V1_MEMORY_OOM_CONTROL)),
)

_V2_PIDS_STAT: Final = Schema(
    current=(1, UINT),
    limit=(2, UINT),
)
_V2_PSI_DATA: Final = Schema(
    avg10=(1, DOUBLE),
    avg60=(2, DOUBLE),
    avg300=(3, DOUBLE),
    total=(4, UINT),
)
_V2_PSI_STATS: Final = Schema(
    some=(1, message(_V2_PSI_DATA)),
    full=(2, message(_V2_PSI_DATA)),
)
_V2_CPU_STAT: Final = Schema(
    usage_usec=(1, UINT),
    user_usec=(2, UINT),
    system_usec=(3, UINT),
    nr_periods=(4, UINT),
    nr_throttled=(5, UINT),
    throttled_usec=(6, UINT),
    psi=(7, message(_V2_PSI_STATS)),
    nr_bursts=(8, UINT),
    burst_usec=(9, UINT),
)
_V2_MEMORY_STAT: Final = Schema(
    anon=(1, UINT),
    file=(2, UINT),
    kernel_stack=(3, UINT),
    slab=(4, UINT),
    sock=(5, UINT),
    shmem=(6, UINT),
    file_mapped=(7, UINT),
    file_dirty=(8, UINT),
    file_writeback=(9, UINT),
    anon_thp=(10, UINT),
    inactive_anon=(11, UINT),
    active_anon=(12, UINT),
    inactive_file=(13, UINT),
    active_file=(14, UINT),
    unevictable=(15, UINT),
    slab_reclaimable=(16, UINT),
    slab_unreclaimable=(17, UINT),
    pgfault=(18, UINT),
    pgmajfault=(19, UINT),
    workingset_refault=(20, UINT),
    workingset_activate=(21, UINT),
    workingset_nodereclaim=(22, UINT),
    pgrefill=(23, UINT),
    pgscan=(24, UINT),
    pgsteal=(25, UINT),
    pgactivate=(26, UINT),
    pgdeactivate=(27, UINT),
    pglazyfree=(28, UINT),
    pglazyfreed=(29, UINT),
    thp_fault_alloc=(30, UINT),
    thp_collapse_alloc=(31, UINT),
    usage=(32, UINT),
    usage_limit=(33, UINT),
    swap_usage=(34, UINT),
    swap_limit=(35, UINT),
    max_usage=(36, UINT),
    swap_max_usage=(37, UINT),
    psi=(38, message(_V2_PSI_STATS)),
)
_V2_RDMA_ENTRY: Final = Schema(
    device=(1, TEXT),
    hca_handles=(2, UINT32),
    hca_objects=(3, UINT32),
)
_V2_RDMA_STAT: Final = Schema(
    current=(1, many(message(_V2_RDMA_ENTRY))),
    limit=(2, many(message(_V2_RDMA_ENTRY))),
)
_V2_IO_ENTRY: Final = Schema(
    major=(1, UINT),
    minor=(2, UINT),
    rbytes=(3, UINT),
    wbytes=(4, UINT),
    rios=(5, UINT),
    wios=(6, UINT),
)
_V2_IO_STAT: Final = Schema(
    usage=(1, many(message(_V2_IO_ENTRY))),
    psi=(2, message(_V2_PSI_STATS)),
)
_V2_HUGETLB_STAT: Final = Schema(
    current=(1, UINT),
    max=(2, UINT),
    pagesize=(3, TEXT),
    failcnt=(4, UINT),
)
_V2_MEMORY_EVENTS: Final = Schema(
    low=(1, UINT),
    high=(2, UINT),
    max=(3, UINT),
    oom=(4, UINT),
    oom_kill=(5, UINT),
    oom_group_kill=(6, UINT),
)
_V2_NETWORK_STAT: Final = Schema(
    name=(1, TEXT),
    rx_bytes=(2, UINT),
    rx_packets=(3, UINT),
    rx_errors=(4, UINT),
    rx_dropped=(5, UINT),
    tx_bytes=(6, UINT),
    tx_packets=(7, UINT),
    tx_errors=(8, UINT),
    tx_dropped=(9, UINT),
)
V2: Final = Schema(
    pids=(1, message(_V2_PIDS_STAT)),
    cpu=(2, message(_V2_CPU_STAT)),
    memory=(4, message(_V2_MEMORY_STAT)),
    rdma=(5, message(_V2_RDMA_STAT)),
    io=(6, message(_V2_IO_STAT)),
    hugetlb=(7, many(message(_V2_HUGETLB_STAT))),
    memory_events=(8, message(_V2_MEMORY_EVENTS)),
    network=(9, many(message(_V2_NETWORK_STAT))),
)
