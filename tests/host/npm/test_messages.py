"""Errors of npm and of scripts: the most informative line, without secrets."""

import json

import pytest

from t3flow.host.children import Finished
from t3flow.host.npm.messages import error_line, parse_error, script_error
from t3flow.t3.secrets import hide

TOKEN = "npm_" + "Ab3" * 12

GYP = """\
> node-pty@1.0.0 install
> node scripts/install.js
gyp info it worked if it ends with ok
gyp ERR! find Python
gyp ERR! find Python Python is not set from command line or npm configuration
gyp ERR! configure error
gyp ERR! stack Error: Could not find any Python installation to use
gyp ERR! stack     at PythonFinder.fail (/x/find-python.js:306:11)
gyp ERR! not ok
npm error code 1
npm error path /var/tmp/t3flow-x/staging/prefix/node_modules/node-pty
npm error command failed
npm error command sh -c node scripts/install.js
npm error A complete log of this run can be found in: /private/cache/_logs/x-debug-0.log
"""
NODE = """\
node:internal/modules/cjs/loader:1228
  throw err;
  ^

Error: Cannot find module 'nan'
    at Function._resolveFilename (node:internal/modules/cjs/loader:1225:15)
Node.js v24.1.0
npm error code 1
npm error path /x/node_modules/@scope/thing
npm error command failed
npm error command sh -c node install.js
"""


@pytest.mark.parametrize(
    "secret",
    [
        TOKEN,
        f"//registry.example/:_authToken={TOKEN}",
        "//registry.example/:_authToken=plain-words",
        "_auth = dXNlcjpwYXNzd29yZA==",
        "Authorization: Bearer abcdef0123456789",
        "authorization Basic dXNlcjpwYXNz",
        "https://user:s3cr3t@registry.example/t3",
        "http://:s3cr3t@proxy.example:8080",
        "https://registry.example/t3.tgz?token=s3cr3t&x=1",
    ],
)
def test_secrets_are_taken_out(secret: str) -> None:
    said = hide(f"GET {secret} failed with 403")
    assert "[hidden]" in said
    assert said.startswith("GET ")
    assert said.endswith(" failed with 403")
    for word in (TOKEN, "plain-words", "dXNlcjpw", "abcdef", "s3cr3t"):
        assert word not in said


@pytest.mark.parametrize(
    "harmless",
    ["npm error code E404", "https://registry.example/@t3code%2ft3-linux-x64", "sha512-abc/def+ghi==", "t3@0.0.42"],
)
def test_the_rest_stays(harmless: str) -> None:
    assert hide(harmless) == harmless


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        (
            GYP,
            "node-pty (`node scripts/install.js`) ends with exit code 1: Error: Could not find any Python installation to use",
        ),
        (NODE, "@scope/thing (`node install.js`) ends with exit code 1: Error: Cannot find module 'nan'"),
        (
            "npm error code 3\nnpm error path /x/node_modules/a\nnpm error command sh -c exit 3\n",
            "a (`exit 3`) ends with exit code 3",
        ),
    ],
)
def test_a_script_that_fails(stderr: str, said: str) -> None:
    line = script_error(Finished(1, b"", stderr.encode()))
    assert line.startswith(said)
    assert "complete log" not in line


def test_the_code_and_the_summary_of_npm() -> None:
    summary = f"Not Found - GET https://user:word@r.example/t3 - {TOKEN}\nmore"
    finished = Finished(1, json.dumps({"error": {"code": "E404", "summary": summary}}).encode(), b"")
    assert parse_error(finished) == ("E404", "Not Found - GET https://[hidden]@r.example/t3 - [hidden]")
    plain = b"npm error code ENOSPC\nnpm error syscall write\nnpm error nospc There is not enough space\nnpm error A complete log of this run can be found in: x\n"
    assert error_line(Finished(1, b"", plain)) == "ENOSPC nospc There is not enough space"
    assert (
        error_line(Finished(127, b"", b"env: 'node': No such file or directory\n"))
        == "env: 'node': No such file or directory"
    )
    assert error_line(Finished(1, b"[]", b"")) == "[]"
    assert error_line(Finished(1, b"", b"")) == "no output"
