"""``migctl completion``."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

SHELLS: Final = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print what a shell needs to complete words.

    In ~/.bashrc or ~/.zshrc: eval "$(migctl completion bash)", or zsh. For fish: migctl completion
    fish > ~/.config/fish/completions/migctl.fish
    """
    root = context.find_root()
    name = str(root.info_name)
    found = get_completion_class(shell)
    assert found is not None  # click knows all three
    click.echo(found(root.command, {}, name, f"_{name.upper()}_COMPLETE").source())
