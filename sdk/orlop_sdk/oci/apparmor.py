# SPDX-License-Identifier: Apache-2.0
"""An AppArmor profile for containers in general, loaded into the kernel under a name of one's choice."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

from orlop.blocking import run_blocking
from orlop.errors import FailedPrecondition, InvalidArgument
from orlop_sdk.oci.spec import Option, Spec, SpecContext
from orlop_sdk.oci.system import with_apparmor

#: What the kernel has loaded, a line each.
LOADED: Final = Path("/sys/kernel/security/apparmor/profiles")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
#: Ordinary programs may do everything but what reaches through the container's file systems into the host's kernel.
_PROFILE: Final = """\
abi <abi/3.0>,
include <tunables/global>

profile {name} flags=(attach_disconnected,mediate_deleted) {{
  include <abstractions/base>

  network,
  capability,
  file,
  umount,
  deny mount,

  # Runtimes and administrators stop it; its processes signal and trace one another.
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (send, receive) peer={name},
  ptrace peer={name},

  # What settings and debugging of the host's kernel begin with; /proc/sys/net is the namespace's own.
  deny @{{PROC}}/* w,
  deny @{{PROC}}/{{acpi,asound,bus,driver,fs,irq,scsi,tty}}/** w,
  deny @{{PROC}}/{{kcore,kmem,mem,sysrq-trigger}} rwklx,
  deny @{{PROC}}/sys/{{abi,debug,dev,fs,user,vm}}/** w,
  deny @{{PROC}}/sys/kernel/{{core_*,hotplug,kexec*,modprobe,modules_disabled,panic*,poweroff_cmd,sysrq}} w,
  deny @{{PROC}}/sys/kernel/{{dmesg_*,kptr_*,perf_*,printk*,randomize_*,unprivileged_*}} w,
  deny @{{PROC}}/sys/kernel/{{firmware_config,keys,random,seccomp,yama}}/** w,
  deny /sys/{{block,bus,class,dev,devices,firmware,hypervisor,kernel,module,power}}/** wklx,
  deny /sys/fs/{{bpf,btrfs,ext4,f2fs,fuse,pstore,resctrl,selinux,smackfs,xfs}}/** wklx,
  deny /sys/{{firmware,kernel/security,devices/virtual/powercap}}/** rklx,
}}
"""


def default_apparmor(name: str) -> str:
    """The text of that profile. Raises `InvalidArgument` for a name that would be more than one."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(f'AppArmor profile "{name}": bad name; use letters, digits, dots, dashes and underscores')
    return _PROFILE.format(name=name)


def with_default_apparmor(name: str) -> Option:
    """That profile, loaded under the name unless one of the name is loaded.

    Raises `FailedPrecondition` where the kernel or the system has no AppArmor.
    """
    text = default_apparmor(name)

    async def option(spec: Spec, context: SpecContext) -> None:
        await run_blocking(_load, name, text)
        with_apparmor(name)(spec, context)

    return option


def _load(name: str, text: str) -> None:
    about = f'AppArmor profile "{name}"'
    try:
        loaded = [line.rpartition(" (")[0] for line in LOADED.read_text().splitlines()]
    except OSError as error:
        raise FailedPrecondition(
            f"{about}: AppArmor is not on here ({LOADED}: {error.strerror}); leave the profile out"
        ) from error
    if name in loaded:
        return
    try:
        done = subprocess.run(
            ["apparmor_parser", "--add", "--skip-cache"], input=text.encode(), capture_output=True, check=False
        )
    except OSError as error:
        raise FailedPrecondition(f"{about}: apparmor_parser: {error.strerror}; install apparmor") from error
    if done.returncode:
        raise FailedPrecondition(f"{about}: cannot be loaded: {done.stderr.decode(errors='replace').strip()}")
