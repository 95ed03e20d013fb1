# SPDX-License-Identifier: Apache-2.0
"""OCI runtime specifications, built from options that anyone can write.

::

    from orlop_sdk import oci

    def quiet(spec, context):
        spec["process"]["oomScoreAdj"] = 500

    context = oci.SpecContext("web", image=config, rootfs=mounts)
    spec = await oci.build(context, oci.with_image_config(), oci.with_memory_limit(64 << 20), quiet)

==============================  ========================================================================================
`orlop_sdk.oci.spec`            what a specification and an option are; building, encoding, decoding
`orlop_sdk.oci.default`         what every container starts from
`orlop_sdk.oci.process`         options about the process
`orlop_sdk.oci.user`            options about who it runs as
`orlop_sdk.oci.system`          options about mounts, devices, namespaces, limits and confinement
`orlop_sdk.oci.seccomp`         which system calls a process may make
`orlop_sdk.oci.apparmor`        an AppArmor profile for containers in general
`orlop_sdk.oci.gpu`             NVIDIA's devices
==============================  ========================================================================================
"""

from orlop_sdk.oci.apparmor import default_apparmor, with_default_apparmor
from orlop_sdk.oci.default import DEFAULT_CAPABILITIES, default_spec
from orlop_sdk.oci.gpu import with_nvidia_gpus
from orlop_sdk.oci.process import (
    current_capabilities,
    merge_env,
    with_ambient_capabilities,
    with_args,
    with_capabilities,
    with_cwd,
    with_env,
    with_image_config,
    with_new_privileges,
    with_only_capabilities,
    with_oom_score_adj,
    with_rlimit,
    with_tty,
)
from orlop_sdk.oci.seccomp import default_seccomp, with_default_seccomp, with_seccomp_file
from orlop_sdk.oci.spec import (
    PROCESS_URL,
    RESOURCES_URL,
    SPEC_URL,
    Option,
    Spec,
    SpecContext,
    apply,
    build,
    compose,
    decode,
    encode,
    section,
    with_spec_file,
)
from orlop_sdk.oci.system import (
    bind,
    tmpfs,
    with_all_devices_allowed,
    with_annotations,
    with_apparmor,
    with_cgroup,
    with_cgroup_parent,
    with_cpu_quota,
    with_cpu_shares,
    with_cpus,
    with_cpuset,
    with_default_devices,
    with_device,
    with_devices,
    with_hook,
    with_host_devices,
    with_host_namespace,
    with_host_network,
    with_hostname,
    with_id_mappings,
    with_masked_paths,
    with_memory_limit,
    with_mounts,
    with_namespace,
    with_pids_limit,
    with_privileged,
    with_rdt,
    with_read_only_rootfs,
    with_readonly_paths,
    with_rootfs_path,
    with_rootfs_propagation,
    with_seccomp,
    with_selinux,
    with_sysctls,
    with_user_namespace,
    with_writable_sysfs,
    without_mounts,
)
from orlop_sdk.oci.user import with_additional_groups, with_user, with_user_id

__all__ = [
    "DEFAULT_CAPABILITIES",
    "PROCESS_URL",
    "RESOURCES_URL",
    "SPEC_URL",
    "Option",
    "Spec",
    "SpecContext",
    "apply",
    "bind",
    "build",
    "compose",
    "current_capabilities",
    "decode",
    "default_apparmor",
    "default_seccomp",
    "default_spec",
    "encode",
    "merge_env",
    "section",
    "tmpfs",
    "with_additional_groups",
    "with_all_devices_allowed",
    "with_ambient_capabilities",
    "with_annotations",
    "with_apparmor",
    "with_args",
    "with_capabilities",
    "with_cgroup",
    "with_cgroup_parent",
    "with_cpu_quota",
    "with_cpu_shares",
    "with_cpus",
    "with_cpuset",
    "with_cwd",
    "with_default_apparmor",
    "with_default_devices",
    "with_default_seccomp",
    "with_device",
    "with_devices",
    "with_env",
    "with_hook",
    "with_host_devices",
    "with_host_namespace",
    "with_host_network",
    "with_hostname",
    "with_id_mappings",
    "with_image_config",
    "with_masked_paths",
    "with_memory_limit",
    "with_mounts",
    "with_namespace",
    "with_new_privileges",
    "with_nvidia_gpus",
    "with_only_capabilities",
    "with_oom_score_adj",
    "with_pids_limit",
    "with_privileged",
    "with_rdt",
    "with_read_only_rootfs",
    "with_readonly_paths",
    "with_rlimit",
    "with_rootfs_path",
    "with_rootfs_propagation",
    "with_seccomp",
    "with_seccomp_file",
    "with_selinux",
    "with_spec_file",
    "with_sysctls",
    "with_tty",
    "with_user",
    "with_user_id",
    "with_user_namespace",
    "with_writable_sysfs",
    "without_mounts",
]
