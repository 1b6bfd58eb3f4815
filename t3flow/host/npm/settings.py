"""npm's settings: those that lead to the registry stay in force, those that would change what is installed do not.

A host's npmrc files and environment may say anything: `omit=optional` leaves the platform's part out, `ignore-scripts` a compiled module. So
npm is given a file with the settings that REACH names and no other, and the rest is said on its command line.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

REACH = re.compile(
    r"(?:(?:@[^:/\s]+:)?registry"
    r"|//\S+"  # tokens and certificates of one registry
    r"|https?-proxy|proxy|no-?proxy|ca|cafile|cert|key|strict-ssl|local-address|maxsockets|user-agent|replace-registry-host"
    r"|fetch-(?:retries|retry-factor|retry-mintimeout|retry-maxtimeout|timeout)"
    r"|_auth|_authtoken|_password|username|email|always-auth|auth-type|otp)(?:\[\])?",
    re.IGNORECASE,
)
PREFIX = "npm_config_"
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "proxy", "node_extra_ca_certs", "ssl_cert_file", "ssl_cert_dir")
"""What npm and Node read beside npm's own settings to reach a registry, in either case."""
QUIET = {
    "npm_config_audit": "false",
    "npm_config_fund": "false",
    "npm_config_update_notifier": "false",
    "NO_COLOR": "1",
}
WHOLE = (
    *("--global=false", "--location=project", "--loglevel=error", "--dry-run=false", "--force=false"),
    *("--include=prod", "--include=optional", "--include=peer", "--legacy-peer-deps=false", "--strict-peer-deps=false"),
    *("--install-strategy=hoisted", "--install-links=false", "--bin-links=true", "--engine-strict=false"),
    *("--package-lock=true", "--package-lock-only=false", "--prefer-dedupe=false"),
)
"""The whole of a package as npm installs it by default, whatever the file says that npm itself was installed with."""


def words(prefix: Path) -> list[str]:
    """The words after npm's verb that make it work in `prefix` on the whole of what is there."""
    return ["--prefix", str(prefix), *WHOLE]


def reaching(lines: Iterable[str]) -> list[str]:
    """Of the lines of npmrc files those that lead to the registry, with the environment's values in them (`${NAME}`)."""
    found = []
    for line in lines:
        key, equals, value = line.partition("=")
        if equals and REACH.fullmatch(key.strip().strip("\"'")):
            found.append(f"{_resolved(key.strip())}={_resolved(value.strip())}")
    return found


def _resolved(text: str) -> str:
    """Names in braces replaced as npm does; one that is not set stays."""
    return re.sub(r"\$\{(\w+)\??\}", lambda name: os.environ.get(name[1], name[0]), text)


def environment(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of an environment (this process's, unless given) what leads npm to the registry."""
    kept = {}
    for name, value in (os.environ if given is None else given).items():
        setting = name[len(PREFIX) :]
        if name.lower().startswith(PREFIX):
            plain = setting if setting.startswith(("//", "_")) else setting.replace("_", "-")
            if REACH.fullmatch(plain):
                kept[name] = value
        elif name.lower() in PROXIES:
            kept[name] = value
    return kept
