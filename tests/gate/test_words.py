"""The evidence is the most informative line, and contains no secret."""

import pytest

from t3flow.gate.cell.output import clean, last_line

NODE = """node:internal/modules/cjs/loader:1228
  throw err;
  ^

Error: Cannot find module 'effect'
    at Function._resolveFilename (node:internal/modules/cjs/loader:1225:15)

Node.js v24.1.0
"""
LAUNCHER = "t3: no T3 Code CLI build is available for this platform (linux-x64).\n"
HANDLER = (
    "[00:26:21.868] INFO (#9): opening\n[00:26:21.900] ERROR (#3): database is locked\n[00:26:21.901] INFO (#9): bye\n"
)
READY = "Listening on http://0.0.0.0:3799\nToken: DNREZ825QWWZ\nPairing URL: http://x/pair#token=DNREZ825QWWZ\n  █▀▀▀▀▀█ ▀▄\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (NODE, "Error: Cannot find module 'effect'"),
        (LAUNCHER, LAUNCHER.strip()),
        (HANDLER, "[00:26:21.900] ERROR (#3): database is locked"),
        (READY, "Listening on http://0.0.0.0:3799"),
        ("Error: the token 0123456789abcdef0123 is not valid\n", "Error: the token … is not valid"),
        ("", "nothing"),
        ("x" * 1000, "x" * 200),
    ],
)
def test_the_line_that_tells_most(text: str, line: str) -> None:
    """An error wins over the last line, QR codes are ignored, and a line about secrets is used only if there is no other."""
    assert last_line(text) == line


@pytest.mark.parametrize(
    "secret", ["DNREZ825QWWZ", "eyJ2IjoxLCJraW5kIjoic2Vzc2lvbiJ9.kmgG9gWK9utqzuZO3pica2oR6tMPaoKC"]
)
def test_no_secret_is_kept(secret: str) -> None:
    """Credentials and signed tokens are removed wherever they are."""
    assert secret not in clean(f"it says {secret}, twice: {secret}")
    assert "it says [hidden], twice" in clean(f"it says {secret}, twice")
