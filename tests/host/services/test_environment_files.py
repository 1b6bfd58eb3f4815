"""Environment files are parsed as by systemd. The cases were recorded from a real systemd; tests/box checks them again."""

from pathlib import Path

import pytest

from t3flow.host.services import environment_files

CASES: list[tuple[str, str | None]] = [
    ("T3_PORT=3802\n", "3802"),
    ("T3_PORT = '3802'\n", "3802"),
    ("  T3_PORT\t=  3802  \n", "3802"),
    ('T3_PORT="3802"\n', "3802"),
    ("T3_PORT=3801\nT3_PORT=3802\n", "3802"),
    ("T3_PORT=3802\r\n", "3802"),
    ("# T3_PORT=1\n; T3_PORT=2\nT3_PORT=3802\n", "3802"),
    ("T3_PORT=38\\\n02\n", "3802"),
    ("T3_PORT=38'02'\n", "38'02'"),
    ("T3_PORT='38'02\n", "3802"),
    ("T3_PORT=3802 # the port\n", "3802 # the port"),
    ("export T3_PORT=3802\n", None),
    ("T3_PORT\n", None),
    ("T3_PORT=\n", ""),
    ("T3_PORT=3802", "3802"),
    ('T3_PORT="38\\"02"\n', '38"02'),
    ('T3_PORT="38\\n02"\n', "38\\n02"),
    ("OTHER='\nT3_PORT=1\n'\nT3_PORT=3802\n", "3802"),
]


@pytest.mark.parametrize(("text", "port"), CASES)
def test_a_file_is_read_as_systemd_reads_it(text: str, port: str | None) -> None:
    assert environment_files.parse(text).get("T3_PORT") == port


def test_a_later_file_counts_and_one_may_be_missing(tmp_path: Path) -> None:
    """Like several `EnvironmentFile=`, one of them with a `-`."""
    (tmp_path / "a").write_text("T3_PORT=1\nA=a\n")
    (tmp_path / "b").write_text("T3_PORT=2\n")
    files = [(tmp_path / "a", False), (tmp_path / "none", True), (tmp_path / "b", False)]
    assert environment_files.read(files, {"T3_PORT": "0", "B": "b"}) == {"T3_PORT": "2", "A": "a", "B": "b"}
    with pytest.raises(FileNotFoundError):
        environment_files.read([(tmp_path / "none", False)])
    (tmp_path / "odd").write_bytes(b"T3_PORT=\xff\n")
    with pytest.raises(ValueError, match="utf-8"):
        environment_files.read([(tmp_path / "odd", False)])
