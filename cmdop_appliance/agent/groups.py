"""Exception groups in words."""


def first_error(group: BaseExceptionGroup[BaseException]) -> str:
    """What went wrong first and what helps, for a log: tasks that end together have one reason."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    hint = getattr(error, "hint", "")  # of an error of ours
    return (str(error) or type(error).__name__) + (f"; {hint}" if hint else "")
