"""Errors that are the user's to mend: one paragraph, no traceback, exit code 2."""


class UserError(Exception):
    """Something is wrong with a file, a value or a command; the message says what, where and what to do."""
