# SPDX-License-Identifier: Apache-2.0
"""The seccomp profile for containers that are to have one: the system calls of ordinary programs, and no others.

::

    options = [with_capabilities(drop=["ALL"]), with_default_seccomp()]   # after what changes the capabilities

What is left out takes the host's time, modules, mounts, keys or tracing into its hands, or has had more holes than
users. Some of it is let through again for a container that has the capability it needs anyhow.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

from orlop.errors import InvalidArgument
from orlop_sdk.oci.spec import Option, Spec, SpecContext, read_json, section

#: What every container may call, by theme. Names that an architecture or a C library does not know are passed over.
CALLS: Final = tuple(
    """
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64
    recvmsg send sendfile sendfile64 sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair

    access chdir chmod chown chown32 close close_range copy_file_range creat faccessat faccessat2 fadvise64
    fadvise64_64 arm_fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fdatasync
    flock fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64
    lchown lchown32 link linkat lseek _llseek lstat lstat64 mkdir mkdirat mknod mknodat newfstatat open openat
    openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv rename
    renameat renameat2 rmdir splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range
    sync_file_range2 arm_sync_file_range syncfs tee truncate truncate64 ugetrlimit umask unlink unlinkat utime
    utimensat utimensat_time64 utimes vmsplice write writev cachestat

    fgetxattr flistxattr fremovexattr fsetxattr getxattr lgetxattr listxattr llistxattr lremovexattr lsetxattr
    removexattr setxattr getxattrat setxattrat listxattrat removexattrat

    dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
    epoll_wait_old eventfd eventfd2 fanotify_mark fcntl fcntl64 inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch ioctl _newselect pipe pipe2 poll ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd
    signalfd4 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 memfd_create
    memfd_secret

    io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit

    brk madvise map_shadow_stack membarrier mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap mseal msync
    munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages

    alarm clock_adjtime clock_adjtime64 adjtimex clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create timer_delete
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 times

    capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32
    getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups
    setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32

    arch_prctl arm_set_tls cacheflush arm_breakpoint breakpoint set_tls execve execveat exit exit_group fork
    get_robust_list get_thread_area getcpu getpgid getpgrp getpid getppid getpriority getrlimit getrusage getsid
    gettid ioprio_get ioprio_set landlock_add_rule landlock_create_ruleset landlock_restrict_self modify_ldt pause
    pidfd_open pidfd_send_signal prctl prlimit64 ptrace restart_syscall rseq sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
    seccomp set_robust_list set_thread_area set_tid_address setpgid setpriority setrlimit setsid sysinfo uname
    uretprobe riscv_hwprobe riscv_flush_icache vfork wait4 waitid waitpid

    kill rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn tgkill tkill

    futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake getrandom ipc mq_getsetattr mq_notify mq_open
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd
    semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget statmount listmount lsm_get_self_attr
    lsm_set_self_attr lsm_list_modules
    """.split()
)
#: What a container may call, too, if it has the capability: it is allowed the act in some other way already.
PRIVILEGED: Final = {
    "CAP_BPF": ("bpf",),
    "CAP_DAC_READ_SEARCH": ("name_to_handle_at", "open_by_handle_at"),
    "CAP_PERFMON": ("perf_event_open",),
    "CAP_SYSLOG": ("syslog",),
    "CAP_SYS_ADMIN": tuple(
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount "
        "open_tree open_tree_attr perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount "
        "umount2 unshare".split()
    ),
    "CAP_SYS_BOOT": ("reboot",),
    "CAP_SYS_CHROOT": ("chroot",),
    "CAP_SYS_MODULE": ("delete_module", "finit_module", "init_module"),
    "CAP_SYS_NICE": ("get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"),
    "CAP_SYS_PACCT": ("acct",),
    "CAP_SYS_PTRACE": ("kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev"),
    "CAP_SYS_RAWIO": ("ioperm", "iopl"),
    "CAP_SYS_TIME": ("clock_settime", "clock_settime64", "settimeofday", "stime"),
    "CAP_SYS_TTY_CONFIG": ("vhangup",),
}
# The flags of clone(2) that make namespaces, all but CLONE_NEWTIME, which it does not take.
_NEW_NAMESPACES: Final = 0x7E020000
# personality(2): Linux, UNAME26 and PER_LINUX32 of both kinds, and the question which one it is.
_PERSONALITIES: Final = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
# Sockets to the hypervisor go past every network namespace.
_AF_VSOCK: Final = 40
_ENOSYS: Final = 38
_ARCHITECTURES: Final = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "s390x": ("SCMP_ARCH_S390X", "SCMP_ARCH_S390"),
}


def default_seccomp(capabilities: tuple[str, ...] = (), machine: str = "") -> dict[str, Any]:
    """The profile for a process with these capabilities on a *machine* as uname(1) names it; empty for this one.

    In the form of the OCI runtime-spec (config-linux.md). A forbidden call fails with EPERM.
    """
    rules = list(_rules(set(capabilities)))
    profile: dict[str, Any] = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}
    architectures = _ARCHITECTURES.get(machine or os.uname().machine)
    if architectures:
        profile["architectures"] = list(architectures)
    return profile


def _rules(capabilities: set[str]) -> Iterator[dict[str, Any]]:
    given = [name for capability in sorted(capabilities) for name in PRIVILEGED.get(capability, ())]
    yield {"names": [*CALLS, *dict.fromkeys(given)], "action": "SCMP_ACT_ALLOW"}
    for value in _PERSONALITIES:
        yield _allow("personality", 0, "SCMP_CMP_EQ", value)
    yield _allow("socket", 0, "SCMP_CMP_NE", _AF_VSOCK)
    if "CAP_SYS_ADMIN" not in capabilities:
        # On s390 the flags come second.
        place = 1 if os.uname().machine == "s390x" else 0
        yield _allow("clone", place, "SCMP_CMP_MASKED_EQ", _NEW_NAMESPACES, 0)
        # Its flags are in memory, where no filter can look; C libraries take clone instead when there is no clone3.
        yield {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS}


def _allow(name: str, index: int, operator: str, value: int, value_two: int = 0) -> dict[str, Any]:
    argument = {"index": index, "value": value, "op": operator}
    if operator == "SCMP_CMP_MASKED_EQ":
        argument["valueTwo"] = value_two
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument]}


def with_default_seccomp() -> Option:
    """`default_seccomp`, for the capabilities that the process has when this option is applied: let it be the last."""

    def option(spec: Spec, context: SpecContext) -> None:
        bounding = section(spec, "process", "capabilities").get("bounding", ())
        section(spec, "linux")["seccomp"] = default_seccomp(tuple(bounding))

    return option


def with_seccomp_file(path: str) -> Option:
    """The seccomp profile in a file, JSON in the form of the OCI runtime-spec.

    Raises `NotFound`, and `InvalidArgument` for what is no such profile.
    """

    async def option(spec: Spec, context: SpecContext) -> None:
        about = f'seccomp profile "{path}"'
        profile = await read_json(path, about)
        if not isinstance(profile, dict) or not isinstance(profile.get("defaultAction"), str):
            raise InvalidArgument(f'{about}: lacks "defaultAction"; see config-linux.md of the OCI spec')
        if "archMap" in profile:
            raise InvalidArgument(
                f'{about}: is in Docker\'s form; write "architectures" for "archMap", '
                'and leave out "includes" and "excludes"'
            )
        section(spec, "linux")["seccomp"] = profile

    return option
