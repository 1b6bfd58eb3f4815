"""The modes of the state folder, also on a host of an earlier t3flow."""

import stat
from pathlib import Path

from t3flow.engine.queue import open_queue, queue_key
from t3flow.host import state_dir
from t3flow.sandbox.host import Sandbox
from t3flow.service.consumer import create_state_dir, open_journal


def modes(folder: Path) -> dict[str, str]:
    return {path.name: f"{stat.S_IMODE(path.lstat().st_mode):o}" for path in (folder, *folder.iterdir())}


def test_a_new_folder_lets_others_through_and_reads_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    create_state_dir(folder)
    assert modes(folder) == {"state": "711", "requests": "700", "users": "711", "consumer.lock": "600"}
    assert state_dir.prepare(folder) == []


def test_an_older_installation_is_corrected_once_and_said(tmp_path: Path) -> None:
    """As an early release left it: closed to all, with files that relied on that."""
    (tmp_path / "box").mkdir()
    box = Sandbox(tmp_path / "box", ["ada"])
    settings = box.settings
    folder = settings.paths.state_dir
    journal = open_journal(settings, create=True)
    with journal.transaction() as connection:
        connection.execute("insert into facts values ('a', '1')")
    open_queue(settings.queue.url, queue_key(folder / "queue.key"))
    for name in ("journal.db", "journal.db-wal", "journal.db-shm", "queue.key"):
        (folder / name).chmod(0o644)
    (folder / "other").write_text("")
    (folder / "other").chmod(0o640)
    wrong = [entry.path.name for entry, what in state_dir.wrong_entries(folder) if "644" in what]
    assert sorted(wrong) == ["journal.db", "journal.db-shm", "journal.db-wal", "queue.key"]
    create_state_dir(folder)
    assert modes(folder)["journal.db"] == "644", "it may be no journal"
    said = state_dir.prepare(folder)
    assert sum("644" in each for each in said) == 4, said
    found = modes(folder)
    assert found.pop("other") == "640", "a file that t3flow does not know stays as it is"
    assert {name for name, mode in found.items() if mode == "711"} == {"state", "users"}
    assert {mode for name, mode in found.items() if name not in ("state", "users", "requests")} == {"600"}
    assert state_dir.prepare(folder) == []


def test_a_link_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    create_state_dir(folder)
    goal = tmp_path / "goal"
    goal.write_text("")
    goal.chmod(0o644)
    (folder / "queue.key").symlink_to(goal)
    assert state_dir.prepare(folder) == []
    assert stat.S_IMODE(goal.stat().st_mode) == 0o644
