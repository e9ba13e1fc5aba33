"""`cmdop completion`: what a shell must load to complete what is typed."""

from typing import Final, Literal

import click

VARIABLE: Final = "_CMDOP_COMPLETE"  # set by the shell: it asks what could follow


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print the script that completes commands, options and names of machines in SHELL.

    \b
    bash: source <(cmdop completion bash)            in ~/.bashrc
    zsh:  source <(cmdop completion zsh)             in ~/.zshrc, after compinit
    fish: cmdop completion fish | source             in ~/.config/fish/config.fish
    """
    from click.shell_completion import ShellComplete, get_completion_class

    script = get_completion_class(shell)(click.Command("cmdop"), {}, "cmdop", VARIABLE)
    text = ShellComplete.source(script)  # bash's own would start bash to ask for its version
    if shell == "bash":  # behind MACHINE: there is a path to come
        text = text.replace(
            "return 0", "[[ ${COMPREPLY-} == *: ]] && compopt -o nospace\n    return 0"
        )
    print(text)
