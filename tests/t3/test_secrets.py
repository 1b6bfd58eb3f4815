"""What is hidden in texts of other programs, and what is not."""

import pytest

from t3flow.t3.secrets import HIDDEN, harmless_lines, hide

SECRETS = {
    "an option": ("sh -c sleep --token=abcdEFGH12 --more", "abcdEFGH12"),
    "an option and its value": ("tool --password hunter22 --more", "hunter22"),
    "a header": ("Authorization: Bearer abcdef123456", "abcdef123456"),
    "a cookie": ("Cookie: t3_session_153c=eyJ2IjoxLCJr.fRQ3DAk3; Path=/", "eyJ2IjoxLCJr"),
    "a signed token": ("it says eyJ2IjoxLCJraW5kIjoic2Vzc2lvbiJ9.fRQ3DAk3IHcJRC1g_LJeSsyL", "eyJ2IjoxLCJr"),
    "a credential": ("cannot use 9KC39JJDT5MR now", "9KC39JJDT5MR"),
    "JSON": ('{"credential": "9kc39jjdt5mr"}', "9kc39jjdt5mr"),
    "URL-encoded": ("GET /?token%3Dabcdef12 failed", "abcdef12"),
    "base64": ("decoding OUtDMzlKSkRUNU1SQUJD failed", "OUtDMzlKSkRUNU1SQUJD"),
    "a password in a URL": ("unix://:pw12@/tmp/s does not answer", "pw12"),
    "a name and a password in a URL": ("redis://me:pw12@localhost:6379/0", "pw12"),
    "a query": ("https://example.test/x?access_token=abc&y=1", "abc&"),
    "a setting of npm": ("//registry.example.test/:_authToken=npm_short", "npm_short"),
    "an npm token": ("npm_Ab3Cd5Ef7Gh9Jk2Lm4Np6Qr8St1Uv3Wx5 is not valid", "npm_Ab3"),
    "an environment": ("GITHUB_TOKEN=ghx_1234 node server.js", "ghx_1234"),
}
HARMLESS = [
    "0.0.25-nightly.20260609.501 failed for ada (dispatch returned 502, expected 302)",
    "bump-20261126T111830-812378 has the host",
    "state-prebump-0.0.25-nightly.20260609.501-20260609T041200Z.sqlite is missing",
    "mint for ada failed: exit 1: Error: database is locked",
    "the answer sets no cookie t3_session_153c7b5c866e",
    "signatures not checked: the registry has no signing keys",
    "exit 0, but no credential in 12 bytes of output",
    "sha512-iRdhsW7qoQnTW+cChqMmuZwfakz90z5tpi3wA/Jg4AwljXF07o64Rhkf26TyMy0V3BWu5AAHTNFhK3znTMm1uA== is not",
    "PersistenceDecodeError at /opt/t3/versions/0.0.24/node_modules/t3/dist/bin.mjs:12:3",
    "process 12097 (sh -c sleep 3000) also serves /home/ada/.t3, outside t3-serve@ada.service: see systemctl cat 't3-serve@ada.service'",
    "no answer from https://registry.example.test/@t3code%2ft3-linux-x64: 404",
    "a turn is running; ask ada to let their agents end, then run: t3flow enqueue drain ada",
]


@pytest.mark.parametrize(("text", "secret"), SECRETS.values(), ids=SECRETS)
def test_a_secret_is_hidden(text: str, secret: str) -> None:
    assert secret not in hide(text)
    assert HIDDEN in hide(text)
    assert hide(hide(text)) == hide(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert hide(text) == text


def test_the_rest_of_a_secret_on_the_next_line_goes_with_it() -> None:
    lines = ["ready", "Token: Mn2Bv4Cx6Zz8", "Ll1Kk3Jj5Hh7", "", "ERROR it failed"]
    assert harmless_lines(lines) == ["ready", "ERROR it failed"]
    assert harmless_lines(["Token: x", "a line of its own"]) == ["a line of its own"]
