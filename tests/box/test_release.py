"""The tarball of a release, installed and upgraded by its script on a real systemd without a network."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from box import NODE, Box
from project import VERSION, Project

SHARED, UNPACKED = "/srv/release", f"/usr/local/src/t3flow-{VERSION}"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    """Return a machine with Node and the files of a release, and nothing else of t3flow."""
    project = Project(tmp_path, real_requirements=True)
    released = project.release()
    assert released.returncode == 0, released
    (tmp_path / "none").mkdir()
    box = Box([], tmp_path / "none", share=f"{project.top}/dist/{VERSION}:{SHARED}")
    try:
        box.boot()
        box.sh(
            'ln -sfn "$1/bin/node" /usr/local/bin/node; printf "#!/bin/sh\\n" > /usr/local/bin/npm; chmod 755 /usr/local/bin/npm',
            NODE,
        )
        yield box
    finally:
        box.close()


def test_it_installs_without_a_network(box: Box) -> None:
    """Without routes, pip settings and a filled home, the consumer runs from the packages in the tarball."""
    assert box.sh("ip route; ip -6 route show default") == ""
    box.sh("rm -f /etc/pip.conf /etc/xdg/pip/pip.conf; mkdir /srv/home")
    box.sh('cd "$1"; sha256sum --check --quiet SHA256SUMS; tar -xzf t3flow-*-offline.tar.gz -C /usr/local/src', SHARED)
    install = ("env", "HOME=/srv/home", f"{UNPACKED}/deploy/install.sh")
    said = box.run(*install)
    assert f"t3flow {VERSION} runs" in said, said
    assert box.run("systemctl", "is-active", "t3flow").strip() == "active"
    first = box.run("readlink", "-f", "/opt/t3flow/current").strip()
    needed = {path.split("-")[0].lower() for path in box.sh('cd "$1/wheels"; ls *.whl', UNPACKED).split()}
    has = {
        line.split()[0].lower().replace("-", "_")
        for line in box.run(f"{first}/bin/python", "-m", "pip", "list").splitlines()[2:]
    }
    assert needed - has <= {"async_timeout"}, "of Python before 3.11.3 alone"
    assert box.sh("ls -A /srv/home") == ""
    assert f"t3flow {VERSION} runs" in box.run(*install)
    assert box.run("readlink", "-f", "/opt/t3flow/current").strip() != first
    assert box.run("systemctl", "is-active", "t3flow").strip() == "active"
