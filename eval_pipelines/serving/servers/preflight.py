"""What must be there before Triton is started. Each check raises StartError: Triton itself would hang, or say it is ready."""

import ctypes
import os
import socket
import sys

from eval_pipelines.serving.servers.questions import StartError

_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - Triton's own place


def require_libpython() -> None:
    """A Python that was built without a library of itself needs one from the system."""
    name = f"libpython3.{sys.version_info.minor}.so.1.0"
    try:
        ctypes.CDLL(name)
    except OSError:
        if sys.version_info[:2] != (3, 13):  # the wheel brings that one
            raise StartError(
                f"{name} is not found, and Triton's Python backend needs it. Install the system's package of that "
                f"library, or use a Python that was built with --enable-shared."
            ) from None


def require_packages() -> None:
    """What would else fail late: after Triton said that it is ready."""
    try:
        import numpy as np
        import pytriton  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        raise StartError(f"{error}: this Python is of an environment without nvidia-pytriton") from error
    if int(np.__version__.split(".")[0]) >= 2:
        # Triton would say that it is ready, and its backend would die of the first request
        raise StartError(f"numpy {np.__version__} is installed; nvidia-pytriton needs numpy < 2")
    if not os.access(_SHARED_MEMORY, os.W_OK):
        raise StartError(f"{_SHARED_MEMORY} is not there or not writable; Triton keeps its tensors in it")


def require_ports(host: str, first: int) -> None:
    """PyTriton waits for minutes for a Triton that found its port taken."""
    for port in range(first, first + 3):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise StartError(
                    f"cannot listen on {host}:{port}: {error.strerror}. Triton takes --port {first} and the next two"
                ) from error
