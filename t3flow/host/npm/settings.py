"""Which of npm's settings stay in force: those that lead to the registry, and none that would change what is installed.

A host's npmrc files and environment may contain anything: `omit=optional` leaves out the platform's part, `ignore-scripts` a compiled module.
Therefore npm gets a file with the settings that REACH names and no other, and the rest on its command line.
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
"""Variables that npm and Node read besides npm's own settings to reach a registry, in upper or lower case."""
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
"""Install the complete package as npm does by default, whatever npm's built-in settings file says."""
PATIENCE = ("fetch-retry-mintimeout=1000", "fetch-retry-maxtimeout=10000")
"""Milliseconds between npm's own retries. By default npm waits 10 s and 60 s, unseen, also after a wrong checksum; t3flow retries and says so."""


def install_options(prefix: Path) -> list[str]:
    """Return the options that make an npm command work on the complete tree in `prefix`."""
    return ["--prefix", str(prefix), *WHOLE]


def reaching(lines: Iterable[str]) -> list[str]:
    """Return the npmrc lines that lead to the registry, with `${NAME}` replaced from the environment."""
    found = []
    for line in lines:
        key, equals, value = line.partition("=")
        if equals and REACH.fullmatch(key.strip().strip("\"'")):
            found.append(f"{_resolved(key.strip())}={_resolved(value.strip())}")
    return found


def _resolved(text: str) -> str:
    """Replace names in braces as npm does; a variable that is not set stays."""
    return re.sub(r"\$\{(\w+)\??\}", lambda name: os.environ.get(name[1], name[0]), text)


def environment(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables of an environment (default: this process's) that lead npm to the registry."""
    variables = {}
    for name, value in (os.environ if given is None else given).items():
        setting = name[len(PREFIX) :]
        if name.lower().startswith(PREFIX):
            plain = setting if setting.startswith(("//", "_")) else setting.replace("_", "-")
            if REACH.fullmatch(plain):
                variables[name] = value
        elif name.lower() in PROXIES:
            variables[name] = value
    return variables
