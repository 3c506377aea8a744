"""The exceptions that are meant for the person at the keyboard."""

import errno
import os

# What a write fails with when the disk is at fault, and not the path.
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class UserError(Exception):
    """A mistake that its reader can mend: what was wrong, where, and what to do.

    The message is shown as it is, without a traceback, so it has at most three lines.
    """


class WriteError(UserError):
    """A file cannot be written, and its path is not to blame: the disk is full, or has failed."""

    def __init__(self, error: OSError, path: str | os.PathLike[str]):
        """Tells in one line what the system said of `path`, or of the file that it names itself."""
        super().__init__(
            f"{error.filename or path} cannot be written: {error.strerror or error};"
            " make room, and the same command goes on"
        )
