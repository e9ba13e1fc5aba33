"""Exception groups in words."""


def first_error(group: BaseExceptionGroup[BaseException]) -> str:
    """What went wrong first, for a log: tasks that end together have one reason."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
