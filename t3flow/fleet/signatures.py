"""The keys of the hosts, and signed texts: only the holder of a host's private key can write what verifies as that host's.

A signed text is a JSON document with the name of its host, a body, and an Ed25519 signature over group, kind, host, and body. A text of one
group or kind therefore never verifies as one of another.
"""

import base64
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from t3flow.fleet.errors import BadRecord, FleetError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
SUFFIX = ".pub"
KEY_BYTES = 32
MAX_KEY_FILE_BYTES = 1024
MAX_BYTES = 32 * 1024
MAX_PEERS = 500
PREAMBLE = "t3flow fleet 1"


class Keys(NamedTuple):
    """This host's name and private key, and the public key of each host of the group, this one included."""

    group: str
    host: str
    private: "Ed25519PrivateKey"
    public: "dict[str, Ed25519PublicKey]"

    def sign(self, kind: str, body: dict[str, Any]) -> bytes:
        """Return a body as a signed text of this host."""
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        signature = self.private.sign(_signed_part(self.group, kind, self.host, text))
        document = {"host": self.host, "body": text, "signature": base64.b64encode(signature).decode()}
        return json.dumps(document, separators=(",", ":")).encode()

    def verify(self, kind: str, data: bytes, host: str | None = None) -> tuple[str, dict[str, Any]]:
        """Return the host that signed a text, and its body. `host`: the one that must have signed it. Raises BadRecord."""
        from cryptography.exceptions import InvalidSignature

        claimed, text, signature = _parts(data)
        if host is not None and claimed != host:
            raise BadRecord(f"it names the host {claimed}")
        known = self.public.get(claimed)
        if known is None:
            raise BadRecord(f"fleet.peers has no key of {claimed}")
        try:
            known.verify(signature, _signed_part(self.group, kind, claimed, text))
            body = json.loads(text)
        except InvalidSignature:
            raise BadRecord(f"its signature is not that of {claimed}") from None
        except (ValueError, RecursionError):
            raise BadRecord("its body is not JSON") from None
        if not isinstance(body, dict):
            raise BadRecord("its body is not a JSON object")
        return claimed, body


def claimed_host(data: bytes) -> str:
    """Return the host that a text claims to be from, without a check; "" if it names none."""
    try:
        return _parts(data)[0]
    except BadRecord:
        return ""


def _parts(data: bytes) -> tuple[str, str, bytes]:
    """Return host, body, and signature of a text that may be hostile. Raises BadRecord."""
    if len(data) > MAX_BYTES:
        raise BadRecord("it is too large")
    try:
        document = json.loads(data)
        host, body = document["host"], document["body"]
        signature = base64.b64decode(document["signature"], validate=True)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BadRecord("it is not a signed record") from None
    if not isinstance(host, str) or not isinstance(body, str) or not NAME.fullmatch(host):
        raise BadRecord("it is not a signed record")
    return host, body, signature


def _signed_part(group: str, kind: str, host: str, text: str) -> bytes:
    return "\n".join((PREAMBLE, group, kind, host, text)).encode()


# Files ----------------------------------------------------------------------------------------------------------------


def read_keys(group: str, host: str, key_file: Path, peers: Path) -> Keys:
    """Return this host's keys, and those of its peers. Raises FleetError if a key is missing, malformed, or another host's."""
    private = private_key(key_file)
    public = {name: public_key(peers / f"{name}{SUFFIX}") for name in peer_names(peers)}
    own = private.public_key()
    if host in public and encoded(public[host]) != encoded(own):
        raise FleetError(
            f"{peers / host}{SUFFIX} is not the public key of {key_file}: two hosts have the name {host}, or a key was made anew; "
            "print this host's with: t3flow fleet key"
        )
    return Keys(group, host, private, {**public, host: own})


def peer_names(peers: Path) -> list[str]:
    """Return the names of the hosts with a key in the folder, sorted. A folder that does not exist has none. Raises FleetError."""
    try:
        found = sorted(each.name.removesuffix(SUFFIX) for each in peers.iterdir() if each.name.endswith(SUFFIX))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FleetError(f"{peers} cannot be read ({error.strerror}): check fleet.peers") from error
    if bad := [name for name in found if not NAME.fullmatch(name)]:
        raise FleetError(f"{peers} has a file {bad[0]!a}{SUFFIX}, which is not the name of a host: rename it")
    if len(found) > MAX_PEERS:
        raise FleetError(f"{peers} has {len(found)} keys, more than {MAX_PEERS}: remove those of other groups")
    return found


def public_key(path: Path) -> "Ed25519PublicKey":
    """Return the public key in a file. Raises FleetError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(_read_key(path, "print it on that host with: t3flow fleet key"))


def private_key(path: Path) -> "Ed25519PrivateKey":
    """Return this host's private key. Raises FleetError."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        raise FleetError(
            "signatures need the package cryptography: install t3flow[fleet], or set fleet.url to an empty text"
        ) from None
    create = "create it with: t3flow fleet key"
    return Ed25519PrivateKey.from_private_bytes(_read_key(path, create, f"remove it, then {create}"))


def create_private_key(path: Path) -> bool:
    """Create this host's private key, unless there is one. Return whether it was created. Raises FleetError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(os.urandom(KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # the first of two creators wins
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
    except OSError as error:
        raise FleetError(f"{path} cannot be created ({error.strerror}): run as root, or set fleet.key_file") from error
    return True


def encoded(key: "Ed25519PublicKey") -> str:
    """Return a public key as its file has it."""
    return base64.b64encode(key.public_bytes_raw()).decode()


def _read_key(path: Path, remedy: str, remedy_of_content: str = "") -> bytes:
    """Return the 32 bytes that a key file has in base64. Raises FleetError."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_KEY_FILE_BYTES)
        key = base64.b64decode((text.split() or [b""])[0], validate=True)
    except OSError as error:
        raise FleetError(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise FleetError(f"{path} is not a key of t3flow; {remedy_of_content or remedy}")
    return key
