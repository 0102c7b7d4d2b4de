"""Child processes without network, that read what they need to run and write nothing: Landlock and seccomp of Linux.

Both restrict a thread for good, and its children inherit that. So a thread of its own starts the child and ends. No
code of ours runs between fork and exec, and no helper program is needed. Elsewhere a child starts without them, and
`missing` says why.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
import sys
import threading
from functools import cache
from typing import Any

# ---- the kernel's numbers --------------------------------------------------------------------------------

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # of Landlock, on all machines
EXECUTE, READ_FILE, READ_DIR = 1 << 0, 1 << 2, 1 << 3
NO_NEW_PRIVS, SET_SECCOMP, FILTER = 38, 22, 2  # of prctl
DENY = 0x00050001  # seccomp: fail with EPERM
ALLOW = 0x7FFF0000
ARCHITECTURES = {  # machine: its audit number, and system calls that are refused
    "x86_64": (0xC000003E, {
        "socket": 41, "socketpair": 53, "ptrace": 101, "keyctl": 250, "unshare": 272, "perf_event_open": 298,
        "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "bpf": 321, "userfaultfd": 323,
        "io_uring_setup": 425,
    }),
    "aarch64": (0xC00000B7, {
        "socket": 198, "socketpair": 199, "ptrace": 117, "keyctl": 219, "unshare": 97, "perf_event_open": 241,
        "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "bpf": 280, "userfaultfd": 282,
        "io_uring_setup": 425,
    }),
}  # fmt: skip
LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/nix/store")
FILES = ("/bin/sh", "/etc/ld.so.cache")


class Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_uint16), ("filter", ctypes.POINTER(Instruction))]


def popen(command: list[str], program: str, **options: Any) -> subprocess.Popen[bytes]:
    """Starts a command that runs `program`, in the sandbox where the system has one. options: of `subprocess.Popen`."""
    if missing(program):
        return subprocess.Popen(command, **options)
    return _restricted(command, program, **options)


@cache
def missing(program: str) -> str:
    """Why `program` cannot run in the sandbox here, "" where it can."""
    if sys.platform != "linux" or platform.machine() not in ARCHITECTURES:
        return f"{sys.platform} on {platform.machine()} has no sandbox that this program knows"
    try:
        with _restricted([program, "-version"], program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
            child.communicate(timeout=20)
        return f"the program ends with {child.returncode} in it" if child.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the system refuses it: {error}"


def _restricted(command: list[str], program: str, **options: Any) -> subprocess.Popen[bytes]:
    started: list[subprocess.Popen[bytes] | BaseException] = []
    rules, code = _ruleset(program), _filter()

    def start() -> None:
        try:
            _call(_libc().prctl(NO_NEW_PRIVS, 1, 0, 0, 0))
            _call(_libc().syscall(RESTRICT_SELF, rules, 0))
            _call(_libc().prctl(SET_SECCOMP, FILTER, ctypes.byref(code), 0, 0))
            started.append(subprocess.Popen(command, **options))
        except BaseException as error:
            started.append(error)

    thread = threading.Thread(target=start, name="sandbox")
    thread.start()
    thread.join()
    if isinstance(started[0], BaseException):
        raise started[0]
    return started[0]


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


@cache
def _ruleset(program: str) -> int:
    """A descriptor of Landlock rules: `program`, a shell and libraries may be read and run; nothing else exists."""
    version = _call(_libc().syscall(CREATE_RULESET, None, 0, 1))
    rights = (1 << (13 + (version > 1) + (version > 2) + (version > 4))) - 1  # all that this version knows
    network, scopes = (3 if version > 3 else 0), (3 if version > 5 else 0)
    attributes = struct.pack("=QQQ", rights, network, scopes)[: 24 if version > 5 else 16 if version > 3 else 8]
    rules = _call(_libc().syscall(CREATE_RULESET, attributes, len(attributes), 0))
    for path in (*LIBRARIES, *FILES, program):
        if os.path.exists(path):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = EXECUTE | READ_FILE | (READ_DIR if os.path.isdir(path) else 0)
            _call(_libc().syscall(ADD_RULE, rules, 1, struct.pack("=Qi", allowed, place), 0))
            os.close(place)
    return rules


@cache
def _filter() -> Program:
    """A seccomp program that refuses the system calls of ARCHITECTURES, and all of other architectures."""
    audit, calls = ARCHITECTURES[platform.machine()]
    numbers = list(calls.values())
    load, equal, at_least, end = 0x20, 0x15, 0x35, 0x06
    lines = [(load, 0, 0, 4), (equal, 1, 0, audit), (end, 0, 0, DENY), (load, 0, 0, 0)]
    lines += [(at_least, len(numbers) + 1, 0, 0x40000000)]  # x32
    lines += [(equal, len(numbers) - k, 0, number) for k, number in enumerate(numbers)]
    lines += [(end, 0, 0, ALLOW), (end, 0, 0, DENY)]
    instructions = (Instruction * len(lines))(*(Instruction(*line) for line in lines))
    return Program(len(lines), instructions)
