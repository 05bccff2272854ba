"""Limits a process gives itself for good, before it runs what nobody has read."""

import os
import resource


def confine(limits: dict[str, int]) -> None:
    """Take hard limits, then, if root, another user: what is limited per user is not limited for root.

    Args:
        limits: cpu_s, memory_bytes, file_bytes, n_processes, n_files; `uid` if this process is root, else 0.
    """
    cpu_s = limits["cpu_s"]
    hard = {
        resource.RLIMIT_CPU: (cpu_s, cpu_s + 1),
        resource.RLIMIT_AS: (limits["memory_bytes"],) * 2,
        resource.RLIMIT_FSIZE: (limits["file_bytes"],) * 2,
        resource.RLIMIT_NPROC: (limits["n_processes"],) * 2,
        resource.RLIMIT_NOFILE: (limits["n_files"],) * 2,
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_MSGQUEUE: (0, 0),
    }
    for limit, values in hard.items():
        resource.setrlimit(limit, values)
    uid = limits["uid"]
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if 0 in (*os.getresuid(), *os.getresgid()):
        raise PermissionError("still root")
