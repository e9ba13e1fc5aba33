"""A user whom modes bind: root may do everything, and would not notice."""

import os
import traceback
from collections.abc import Callable

_NOBODY = 65534  # by convention, on every Linux


def succeeds_as_nobody(check: Callable[[], None]) -> bool:
    """True: nothing was raised, in a process of a user who is not root."""
    child = os.fork()
    if not child:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(_NOBODY, _NOBODY, _NOBODY)
                os.setresuid(_NOBODY, _NOBODY, _NOBODY)
            check()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - else two processes would go on with the tests
            traceback.print_exc()
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0
