"""Locks that keep a second process out of a folder, on Linux, macOS and Windows.

The system locks an open file, and releases it when the process ends, however it ends. Some file
systems of clusters have no such locks, or grant one to everybody who asks. There a lock file stands
in, with its process and host in it. It outlives a process that is killed: the next one on the same
host takes it over, but one of another host must be deleted by hand.
"""

import contextlib
import errno
import io
from pathlib import Path

import filelock

from lenet_jax.errors import printable
from lenet_jax.reading import open_lock, read_bytes
from lenet_jax.storage.files import refuse_link

# Error numbers of file systems, and of systems, that have no locks.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


class Lock:
    """A lock that one process at a time can hold; not reentrant.

    Attributes:
      note: in one line, that a lock file stands in for the system's lock; None if none does.
    """

    def __init__(self, path: Path):
        """Locks nothing yet.

        Args:
          path: the file to lock; it is created, and stays. A lock file is named `PATH.owner`.
        """
        self.note: str | None = None
        self._path = path
        self._marker = path.with_name(f"{path.name}.owner")
        self._held: io.FileIO | filelock.SoftFileLock | None = None

    def acquire(self) -> bool:
        """Takes the lock, unless another process has it; whether it is held.

        Raises:
          OSError: the file cannot be written or locked, or is a symbolic link, a pipe, a socket or
            a device; the error's `filename` is set.
        """
        refuse_link(self._path)
        with contextlib.ExitStack() as opened:
            file = opened.enter_context(open_lock(self._path))
            try:
                if not filelock.lock_descriptor(file.fileno(), blocking=False):
                    return False
                exclusive = not self._is_granted_again()
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    error.filename = error.filename or str(self._path)
                    raise
                exclusive = False
            if exclusive:
                self._held = file
                opened.pop_all()  # closing the file would release it
                return True
        return self._create_marker()

    def release(self) -> None:
        """Releases the lock; without effect if it is not held."""
        if isinstance(self._held, filelock.SoftFileLock):
            self._held.release()
        elif self._held is not None:
            self._held.close()
        self._held = None

    def holder(self) -> str | None:
        """Who holds the lock file, and what to do if it is a process that is gone, in one line.

        None for a lock of the system, whose holder is alive.
        """
        try:
            process, host, *_ = read_bytes(self._marker).decode().split()
        except (OSError, ValueError):
            return None
        owner = printable(f"process {process} on {host}")
        return f"It is {owner}; if that has ended, delete {self._marker}"

    def _is_granted_again(self) -> bool:
        """Whether the file system grants the lock a second time, which is no lock."""
        with open_lock(self._path) as file:
            return filelock.lock_descriptor(file.fileno(), blocking=False)

    def _create_marker(self) -> bool:
        self.note = (
            f"the file system of {self._path.parent} has no locks: {self._marker.name} stands in"
        )
        marker = filelock.SoftFileLock(self._marker, thread_local=False)
        try:
            marker.acquire(blocking=False)
        except filelock.Timeout:
            return False
        self._held = marker
        return True
