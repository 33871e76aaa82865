"""What a user must change, said in a few lines, and the exit status that goes with it.

Every room may raise these; only `pipeline.cli` and `pipeline.stages` turn them into a message and an exit status, so
that a user's mistake never shows a traceback.
"""


class UserError(Exception):
    """Something the user must change. The message says what is wrong, where, and what to do next."""

    exit_code = 2


class GateRefused(UserError):
    """A gate said no: nothing is broken, but what was asked for was not done."""

    exit_code = 3
