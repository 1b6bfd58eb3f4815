"""The user map: what is read from it, what is refused, and that one bad line spoils no other."""

import string
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t3flow.settings.user_map import USER_NAME, MappedUser, UserMap, UserMapError, read_user_map


def _read(folder: Path, content: str | bytes, uids: dict[str, int] | None = None) -> UserMap:
    """Return the user map of that content, on a host that has those accounts (None: any)."""
    path = folder / "map"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_user_map(path, lookup=None if uids is None else uids.get)


def _names(found: UserMap) -> list[str]:
    return [user.name for user in found.users]


def test_comments_blanks_and_crlf_are_fine(tmp_path: Path) -> None:
    """Everything that people put into such a file besides lines is passed over, and order is kept."""
    found = _read(
        tmp_path,
        "\ufeff# who works here\r\n\r\nbert@example.org=bert\r\n   \n\t# more\nanna=anna # since May\n \tcara=cara\t\n",
    )

    assert [
        MappedUser("bert", "bert@example.org"),
        MappedUser("anna", "anna"),
        MappedUser("cara", "cara"),
    ] == found.users
    assert [] == found.problems


def test_of_several_names_the_first_verifies(tmp_path: Path) -> None:
    """Several people may work as one user; the user appears once, with the first of them."""
    found = _read(tmp_path, "anna=dev\nbert=dev\ncara=cara\nanna=dev\n")

    assert [MappedUser("dev", "anna"), MappedUser("cara", "cara")] == found.users
    assert {"anna": "dev", "bert": "dev", "cara": "cara"} == found.user_of
    assert [] == found.problems


def test_a_person_works_as_one_user(tmp_path: Path) -> None:
    """The second line for a person is refused, named with the first's user."""
    found = _read(tmp_path, "anna=anna\nanna=bert\n")

    assert ["anna"] == _names(found)
    assert [f"{tmp_path / 'map'}: line 2: anna already works as anna: remove one of the two lines"] == found.problems


@pytest.mark.parametrize(
    "name",
    ["Grace", "ada.lovelace", "bob@corp.example", "CORP\\bob", "1anna", "host$", "a+b", "anna-", "_", "a" * 239],
)
def test_names_of_accounts_as_linux_allows_them(tmp_path: Path, name: str) -> None:
    """Directory services give names with dots, capitals, domains."""
    found = _read(tmp_path, f"anna={name}\n", {name: 1000})
    assert (_names(found), found.problems) == ([name], [])


def test_what_a_refused_line_may_have_meant_is_kept(tmp_path: Path) -> None:
    """Those accounts get a link too, before the default moves."""
    found = _read(tmp_path, "anna = ann\u00e4 # x\nbert=b=c\nnothing\n")
    assert found.users == []
    assert set(found.refused) == {"ann\u00e4", "b=c", "c", "b"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("../x=..", "'..' cannot name a user"),
        ("a=b=c", "has 2 equals signs"),
        (";rm -rf", "has 0 equals signs"),
        ("anna", "has 0 equals signs"),
        ("=anna", "'' cannot name a person"),
        ("anna=", "'' cannot name a user"),
        ("anna = anna", "'anna ' cannot name a person"),
        ("an na=anna", "cannot name a person"),
        ("an\x00na=anna", "cannot name a person"),
        ("an\x1b[2Jna=anna", "cannot name a person"),
        ("an\x85na=anna", "cannot name a person"),
        ("an\u2028na=anna", "cannot name a person"),
        ("łukasz=anna", "cannot name a person"),
        ("p" * 257 + "=anna", "longer than 256 characters"),
        ("anna=1234", "cannot name a user"),
        ("anna=an..na", "cannot name a user"),
        ("anna=.anna", "cannot name a user"),
        ("anna=-anna", "cannot name a user"),
        ("anna=" + "a" * 241, "cannot name a user"),
        ("anna=a;reboot", "cannot name a user"),
        ("anna=$(id)", "cannot name a user"),
        ("anna=a/b", "cannot name a user"),
        ("anna=ann\u00e4", "cannot name a user"),
        ("anna=root", "is root, which is never served"),
        ("anna=toor", "is root, which is never served"),
        ("anna=ghost", "the host has no user ghost"),
    ],
)
def test_a_bad_line_is_named_and_skipped(tmp_path: Path, line: str, reason: str) -> None:
    """Each bad line gives one printable line with file, number and reason; the lines around it count."""
    uids = {"anna": 1000, "bert": 1001, "cara": 1002, "toor": 0, "root": 0}

    found = _read(tmp_path, f"bert=bert\n{line}\ncara=cara\n", uids)

    assert ["bert", "cara"] == _names(found)
    [problem] = found.problems
    assert problem.startswith(f"{tmp_path / 'map'}: line 2: ")
    assert reason in problem
    assert problem.isprintable()


def test_root_is_refused_without_a_host_to_ask(tmp_path: Path) -> None:
    """In a sandbox, where accounts are not looked up, root is still no user."""
    found = _read(tmp_path, "admin=root\nanna=anna\n")

    assert ["anna"] == _names(found)
    assert 1 == len(found.problems)


def test_latin_1_names_are_people(tmp_path: Path) -> None:
    """A header carries Latin-1, so these names are legal, at full length too."""
    found = _read(tmp_path, f"jörg@example.org=joerg\n{'p' * 256}=long\nDOMAIN\\eva=_eva-2\n")

    assert ["joerg", "long", "_eva-2"] == _names(found)


def test_ten_thousand_lines_are_read_at_once(tmp_path: Path) -> None:
    """A big map takes well under a second, and each account is asked for once."""
    lines = [f"person{number}@example.org=user{number % 5000}" for number in range(10_000)]
    asked: list[str] = []
    path = tmp_path / "map"
    path.write_text("\n".join(lines))

    def lookup(name: str) -> int:
        asked.append(name)
        return 1000

    started = time.process_time()
    found = read_user_map(path, lookup=lookup)

    assert time.process_time() - started < 0.5
    assert 5000 == len(found.users) == len(asked)
    assert [] == found.problems


def test_an_empty_map_has_no_users(tmp_path: Path) -> None:
    """No line is no problem."""
    assert UserMap() == _read(tmp_path, "")


def test_a_map_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """Missing, a folder, not UTF-8: one line that names the file."""
    with pytest.raises(UserMapError, match=r"nowhere: cannot be read \(No such file"):
        read_user_map(tmp_path / "nowhere")
    with pytest.raises(UserMapError, match="cannot be read"):
        read_user_map(tmp_path)
    with pytest.raises(UserMapError, match=r"not UTF-8 \(byte 5\)"):
        _read(tmp_path, b"anna=\xff\n")


@given(content=st.text(st.sampled_from(string.printable + "ä\x85\u2028ł\0="), max_size=200))
def test_any_text_gives_only_users_that_are_safe(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    """Whatever the file holds: each user has a legal name that is not root, each problem is one line."""
    path = tmp_path_factory.getbasetemp() / "any-map"
    path.write_bytes(content.encode())

    found = read_user_map(path)

    assert len(_names(found)) == len(set(_names(found)))
    for user in found.users:
        assert USER_NAME.fullmatch(user.name)
        assert user.name != "root"
        user.person.encode("latin-1")
        assert not any(character.isspace() for character in user.person)
        assert user.name == found.user_of[user.person]
    assert all(problem.isprintable() for problem in found.problems)
