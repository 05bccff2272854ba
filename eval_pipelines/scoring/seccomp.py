"""A seccomp filter for programs that nobody has read, assembled by hand: no library, no compiler.

What a judged program has no use for and kernels had holes in is refused: mounts, namespaces, tracing, keyrings, io_uring,
bpf, modules, clocks, and sockets other than AF_UNIX. All else is allowed: the sandbox around it is what isolates.

Source  Linux: linux/filter.h, linux/seccomp.h, linux/audit.h, and the syscall tables of x86_64 and aarch64
"""

import errno
import struct
from collections.abc import Iterable

# name: (x86_64, aarch64); None where the architecture has no such call
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "quotactl": (179, 60),
    "unshare": (272, 97),
    "setns": (308, 268),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "init_module": (175, 105),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "personality": (135, 92),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
}
# audit architecture, then clone, clone3, socket, ioctl
_ARCHITECTURES = {"x86_64": (0xC000003E, 56, 435, 41, 16), "aarch64": (0xC00000B7, 220, 435, 198, 29)}
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_X32 = 0x40000000
_AF_UNIX = 1
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX

_LOAD, _AND = 0x20, 0x54
_JUMP_EQUAL, _JUMP_GREATER_EQUAL, _RETURN = 0x15, 0x35, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NUMBER, _ARCHITECTURE, _ARGUMENT0, _ARGUMENT1 = 0, 4, 16, 24  # offsets in struct seccomp_data, little-endian

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def architectures() -> list[str]:
    """Those there is a filter for, as `platform.machine()` names them."""
    return list(_ARCHITECTURES)


def assemble(machine: str) -> bytes:
    """The filter as `bwrap --seccomp` reads it: struct sock_filter after struct sock_filter. Raises KeyError."""
    audit, clone, clone3, socket, ioctl = _ARCHITECTURES[machine]
    column = list(_ARCHITECTURES).index(machine)
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, audit),
        (_RETURN, 0, 0, _KILL),  # 32-bit calls have numbers of their own
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        program += _refuse_if(_JUMP_GREATER_EQUAL, _X32, errno.ENOSYS)
    for numbers in _REFUSED.values():
        number = numbers[column]
        if number is not None:
            program += _refuse_if(_JUMP_EQUAL, number, errno.EPERM)
    # its flags lie in memory, out of a filter's sight; libc falls back to clone
    program += _refuse_if(_JUMP_EQUAL, clone3, errno.ENOSYS)
    program += _when(
        clone,
        [
            (_LOAD, 0, 0, _ARGUMENT0),
            (_AND, 0, 0, _NEW_NAMESPACES),
            (_JUMP_EQUAL, 1, 0, 0),
            _refusal(errno.EPERM),
        ],
    )
    program += _when(
        socket,
        [(_LOAD, 0, 0, _ARGUMENT0), (_JUMP_EQUAL, 1, 0, _AF_UNIX), _refusal(errno.EAFNOSUPPORT)],
    )
    injections = [one for request in _TERMINAL_INJECTION for one in _refuse_if(_JUMP_EQUAL, request, errno.EPERM)]
    program += _when(ioctl, [(_LOAD, 0, 0, _ARGUMENT1), *injections])
    program.append((_RETURN, 0, 0, _ALLOW))
    return _packed(program)


def _refusal(error: int) -> Instruction:
    return (_RETURN, 0, 0, 0x00050000 | error)


def _refuse_if(comparison: int, constant: int, error: int) -> list[Instruction]:
    return [(comparison, 0, 1, constant), _refusal(error)]


def _when(number: int, then: list[Instruction]) -> list[Instruction]:
    """`then` for one syscall, whose end allows; for every other, on to what follows."""
    body = [*then, (_RETURN, 0, 0, _ALLOW)]
    return [(_JUMP_EQUAL, 0, len(body), number), *body]


def _packed(program: Iterable[Instruction]) -> bytes:
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
