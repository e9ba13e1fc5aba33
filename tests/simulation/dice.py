"""Where all chance of a case comes from."""

import random


class Dice(random.Random):
    """One for each trade, so that a fault changes nothing in what was planned beside it."""

    def __init__(self, seed: str) -> None:
        super().__init__(seed)

    def chance(self, share: float) -> bool:
        """True in `share` of the cases."""
        return self.random() < share
