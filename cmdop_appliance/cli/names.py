"""Names with commas between them, as people write them."""

import click


def split(names: str) -> list[str]:
    """The names in `a,b`."""
    return [name.strip() for name in names.split(",") if name.strip()]


class Names(click.ParamType[list[str]]):
    """An option's value that becomes at least one name.

    An empty one is most likely a variable of a script that is not set: it is refused, for what
    an option restricts would otherwise be open.
    """

    name = "names"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        """See `split`."""
        return split(value) or self.fail("no name is given", param, ctx)
