"""Groups of commands."""

import click


class Commands(click.Group):
    """A group whose commands are listed in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, as added."""
        return list(self.commands)
