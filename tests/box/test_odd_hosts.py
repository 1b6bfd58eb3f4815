"""An unusual host: names that `useradd` refuses, an account outside /etc/passwd, drop-ins, a server beside the unit, and an overwritten launcher.

One box, with scenes in order; each starts where the previous one ended.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from box import FIRST_PORT, ROOT, Box, documented, fetch_wheels
from looks import bump, main_pid, results

DATA = ROOT / "tests/data"
FIRST = "0.0.24"
TYPED, GOOD = "0.0.25-nightly.20260601.501", "0.0.25-nightly.20260602.502"
DOMAIN = "CORP\\eve"
ODD = ["ada.lovelace", "Grace", "bob@corp.example", DOMAIN]
BY_NSS, PATCHED, OWN = "nora", "ada-limits", "linus"
"""An account of nss-systemd; one whose drop-in changes only the environment; one whose drop-in starts another t3."""
MANAGED = [*ODD, BY_NSS, PATCHED]
MAPPED = [*MANAGED, OWN]
UNMAPPED, REFUSED, STATE_ONLY = "mia", "z;y", "otto"
"""Accounts outside the map: with unit and settings, in a refused line, with only a state folder."""
SETTINGS = {
    "quiet_seconds": "1",
    "window": '""',
    "max_check_interval_s": "2",
    "verify_timeout_s": "20",
    "seeds": '"largest"',
}
ACCOUNT = """
id=$1 name=$2
printf '%s:x:%s:%s::/home/%s:/bin/sh\\n' "$name" "$id" "$id" "$name" >> /etc/passwd
printf '%s:x:%s:\\n' "$name" "$id" >> /etc/group
install -d -m 700 "/home/$name"; chown "$id:$id" "/home/$name"
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the packages of an installation for the box's Python."""
    return fetch_wheels(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="module")
def box(wheels: Path, request: pytest.FixtureRequest) -> Iterator[Box]:
    """Return the box for all scenes, installed and adopted."""
    box = Box(MAPPED, wheels)
    box.environment["DEVBOX_USERS"] = ""
    try:
        box.boot()
        for number, name in enumerate([*ODD, PATCHED, OWN, UNMAPPED, REFUSED, STATE_ONLY], 4001):
            box.run("sh", "-euc", ACCOUNT, "sh", str(number), name)
        record = {"userName": BY_NSS, "uid": 4100, "gid": 4100, "homeDirectory": f"/home/{BY_NSS}", "shell": "/bin/sh"}
        box.write(f"/etc/userdb/{BY_NSS}.user", json.dumps({**record, "disposition": "regular"}))
        box.write(f"/etc/userdb/{BY_NSS}.group", json.dumps({"groupName": BY_NSS, "gid": 4100}))
        box.sh("cd /etc/userdb; ln -s nora.user 4100.user; ln -s nora.group 4100.group")
        box.sh('install -d -m 700 "/home/$1"; chown 4100:4100 "/home/$1"', BY_NSS)
        # in the name of an environment file, a backslash is an escape for systemd
        drop_in(
            box,
            DOMAIN,
            "[Service]\nEnvironmentFile=\nEnvironmentFile=-/etc/none\nEnvironmentFile=/etc/t3-serve/corp.conf\n",
        )
        box.write("/etc/t3-serve/corp.conf", f"T3_PORT={box.ports[DOMAIN]}\n")
        box.set_up(FIRST, dict.fromkeys(MAPPED, DATA / "state-level30.sqlite"), {"schema_level": 30})
        install(box)
        yield box
    finally:
        if request.session.testsfailed:
            print(box.try_run("journalctl", "--no-pager", "-u", "t3flow", "-n", "120").stdout, file=sys.stderr)
        box.close()


def install(box: Box) -> None:
    """Install t3flow on the unusual host."""
    box.sh(documented("# Installing t3flow")[1])
    for key, value in SETTINGS.items():
        box.sh('sed -i "s|^#$1 = .*|$1 = $2|" /etc/t3flow/config.toml', key, value)
    box.sh('cp -a /usr/lib/node_modules/t3 "/opt/own-t3"')
    program = box.sh("cd /opt/own-t3; node -p 'require(\"./package.json\").bin.t3'").strip()
    own = f"/usr/local/bin/node /opt/own-t3/{program} serve --host 0.0.0.0"
    drop_in(box, OWN, f"[Service]\nExecStart=\nExecStart={own} --port ${{T3_PORT}} --base-dir /home/%i/.t3\n")
    drop_in(box, PATCHED, "[Service]\nEnvironment=LIMIT=1\nLimitNOFILE=4096\n")
    box.write(f"/etc/t3-serve/{UNMAPPED}.env", f"T3_PORT={FIRST_PORT + 50}\n")
    box.give(UNMAPPED, DATA / "state-level30.sqlite")
    box.give(STATE_ONLY, DATA / "state-level30.sqlite")
    box.sh('printf "%s\\n" "zoe@example.test=$1" >> /etc/ttyd-user-map', REFUSED)
    box.write("/etc/t3-serve/Grace.env", f"# hers\n; T3_PORT=1\nT3_PORT=7\nT3_PORT = '{box.ports['Grace']}'\r\n")
    box.run("systemctl", "daemon-reload")
    box.run("systemctl", "restart", f"t3-serve@{OWN}.service", "t3-serve@Grace.service", "t3flow")
    box.until(lambda: all(box.pairs(user) for user in (OWN, "Grace")), "they pair")
    adopted = box.document("adopt")
    assert adopted["outcome"] == "done", adopted
    assert adopted["users"][OWN]["result"] == "skipped"


def drop_in(box: Box, user: str, text: str) -> None:
    """Write a drop-in of a user's unit."""
    box.write(f"/etc/systemd/system/t3-serve@{user}.service.d/own.conf", text)


def links(box: Box) -> dict[str, str]:
    """Return the assigned version of each user."""
    said = box.sh('cd /opt/t3/users; for link in *; do printf "%s %s\\n" "$link" "$(readlink "$link")"; done')
    return {line.rpartition(" ")[0]: line.rpartition("/")[2] for line in said.splitlines()}


def pids(box: Box) -> dict[str, str]:
    """Return the pid of each user's server."""
    return {user: main_pid(box, f"t3-serve@{user}.service") for user in MAPPED}


def users(box: Box) -> dict[str, Any]:
    """Return the users of `status --json`."""
    shown: dict[str, Any] = box.document("status")["users"]
    return shown


def test_environment_files_are_read_as_systemd_reads_them(box: Box) -> None:
    """Each recorded case matches what this systemd does."""
    sys.path.insert(0, str(ROOT / "tests/host/services"))
    from test_environment_files import CASES

    said = json.loads(
        box.lab(
            """
            import json, subprocess, sys
            found = []
            for text in json.loads(sys.argv[1]):
                Path("/run/case.env").write_bytes(text.encode())
                words = ["systemd-run", "--quiet", "--wait", "--pipe", "-p", "EnvironmentFile=/run/case.env", "env", "-0"]
                said = subprocess.run(words, capture_output=True, text=True).stdout
                found.append(dict(word.partition("=")[::2] for word in said.split(chr(0))).get("T3_PORT"))
            print(json.dumps(found))
            """,
            json.dumps([text for text, _ in CASES]),
        )
    )
    assert dict(zip([text for text, _ in CASES], said, strict=True)) == dict(CASES)


def test_who_cannot_be_managed_is_named_and_has_a_link(box: Box) -> None:
    """Status and doctor name unmanaged users with the reason; all others are managed."""
    shown = users(box)
    assert {user for user in MAPPED if shown[user]["managed"]} == set(MANAGED), shown
    assert "/opt/own-t3" in shown[OWN]["why_unmanaged"]
    assert f"{OWN} is not managed" in box.t3flow("status").stdout
    assert any(f"{OWN} is not managed" in each["problem"] for each in box.document("doctor"))
    assert links(box)[OWN] == FIRST


def test_an_overwritten_launcher_is_found_before_anybody_is_stopped(box: Box) -> None:
    """After `npm install -g` over the launcher, nothing is stopped, frozen or rejected; `doctor --fix` puts it back."""
    box.publish(TYPED, {"schema_level": 32})
    box.publish(GOOD, {"schema_level": 32})
    before = pids(box)
    overwrite(box)
    assert "/usr/bin/t3 was overwritten" in box.t3flow("status").stdout.splitlines()[0]
    ended = bump(box)
    assert ended["outcome"] == "gate_inconclusive", ended
    assert "was overwritten" in ended["reason"]
    shown = box.document("status")
    assert (shown["frozen"], shown["rejected"]) == (None, {})
    assert pids(box) == before
    fixed = box.t3flow("doctor", "--fix")
    assert "fixed: /usr/bin/t3 is the launcher again" in fixed.stdout, fixed
    assert not any(line.startswith("/usr/bin/t3 was") for line in box.t3flow("status").stdout.splitlines())
    assert not any(each["check"] == "launcher" for each in box.document("doctor"))
    assert pids(box) == before


def overwrite(box: Box) -> None:
    """Return what the typed t3 prints."""
    box.sh("rm -f /usr/bin/t3")
    box.run("npm", "install", "--global", "--prefix", "/usr", "--ignore-scripts", f"t3@{TYPED}")


def test_after_one_pairing_each_adopt_really_moves_them(box: Box) -> None:
    """If the program in the launcher's place has migrated databases, adopt assigns its version, and drains restart the users."""
    overwrite(box)
    broken = MANAGED[:2]
    for user in broken:
        box.pairs(user)
        assert not box.pairs(user), f"{user} is at schema 32 under a server of schema 30"
    adopted = box.document("adopt")
    assert adopted["outcome"] == "done", adopted
    assert {user for user in MANAGED if adopted["users"][user]["result"] == "deferred"} == set(broken), adopted
    box.until(lambda: all(box.pairs(user) for user in MAPPED), "all pair again", 60)
    assert {user: users(box)[user]["running_version"] for user in broken} == dict.fromkeys(broken, TYPED)


def test_a_good_build_moves_everybody_but_who_cannot_be_managed(box: Box) -> None:
    """Users that are left out keep an assignment to their version when the default moves."""
    before = pids(box)
    ended = bump(box)
    assert ended["outcome"] == "updated", ended
    assert results(ended) == {**dict.fromkeys(MANAGED, "restarted"), OWN: "skipped"}
    assert all(box.pairs(user) for user in MAPPED)
    assert pids(box)[OWN] == before[OWN]
    found = links(box)
    assert {user: found[user] for user in MANAGED} == dict.fromkeys(MANAGED, GOOD)
    for user in (OWN, UNMAPPED, REFUSED, STATE_ONLY):
        assert found[user] == FIRST, (user, found)
        said = box.run(
            "setpriv", f"--reuid={box.run('id', '-u', user).strip()}", "--clear-groups", "/usr/bin/t3", "--version"
        )
        assert said.strip() == f"t3 v{FIRST}"


def test_a_server_beside_the_unit_makes_its_user_unmanaged_while_it_lasts(box: Box) -> None:
    """A second unit for the same folder, as by `t3 service install`, is named and never ended by t3flow."""
    user = "ada.lovelace"
    words = ["--unit=beside", f"--uid={user}", "--service-type=exec", f"/opt/t3/versions/{GOOD}/node_modules/.bin/t3"]
    box.run("systemd-run", "--quiet", *words, "serve", "--port", "4999", "--base-dir", f"/home/{user}/.t3")
    pid = main_pid(box, "beside.service")
    shown = box.until(lambda: users(box)[user]["why_unmanaged"], f"{user} is not managed")
    assert f"process {pid}" in shown
    assert [each["user"] for each in box.document("verify", user)] == [user]
    assert main_pid(box, "beside.service") == pid
    box.run("systemctl", "stop", "beside.service")
    box.until(lambda: users(box)[user]["managed"], f"{user} is managed again")
