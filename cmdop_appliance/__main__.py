"""Start of the program: `cmdop`, `python -m cmdop_appliance`, and the packed binary."""

import os
import sys


def main() -> None:
    """Run what the arguments say, and exit."""
    is_packed = hasattr(sys, "_MEIPASS")
    if is_packed:
        from cmdop_appliance.packed import settle

        settle(os.environ)
    match sys.argv[1:]:
        case ["keeper", state_dir]:  # it lives for months, so it loads no command line
            from cmdop_appliance.agent.keeper.main import main as keep

            sys.exit(keep(state_dir))
    if is_packed:
        from cmdop_appliance.authorities import find_authorities

        find_authorities(os.environ)
    from cmdop_appliance.cli.main import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
