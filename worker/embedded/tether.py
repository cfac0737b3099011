"""Tie a process to its parent: it ends when the parent does, however the parent ends.

Run as a script (`python -I -S tether.py PARENT_PID PROGRAM ARGUMENT…`) this file becomes PROGRAM,
tied to PARENT_PID. It needs nothing but the standard library and starts in some 20 ms. That is
how servers that know nothing of us are tied without running Python between fork and exec, which
is unsafe in a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["die_with_parent"]

#: From <linux/prctl.h>.
_PR_SET_PDEATHSIG = 1
#: What a shell answers for a program that cannot be run.
_CANNOT_RUN = 127


def die_with_parent(parent_pid: int | None = None) -> None:
    """Have the kernel kill this process as soon as its parent ends, even by SIGKILL.

    The kernel means the parent's *thread* that forked: `worker.embedded.process` starts everything
    from one thread that lives as long as its process. The tie survives exec but not fork.

    Args:
        parent_pid: Who the parent must still be. Where it is gone already, this process kills
            itself at once; without the check a parent that died between fork and this call would
            never be noticed. None takes whoever is the parent now.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if parent_pid is not None and os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGKILL)


def _main(argv: list[str]) -> None:
    parent_pid, *command = argv
    die_with_parent(int(parent_pid))
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is the point
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]!r}: {error.strerror}\n")
        sys.exit(_CANNOT_RUN)


if __name__ == "__main__":
    _main(sys.argv[1:])
