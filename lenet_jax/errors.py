"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """A mistake that its reader can mend: what was wrong, where, and what to do.

    The message is shown as it is, without a traceback, so it has at most three lines.
    """
