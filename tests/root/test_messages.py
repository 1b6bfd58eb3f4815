"""As root: a message by Apprise is sent under a uid that no account has."""

import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
from receiver import hang, receiving

from t3flow.host.children import Children
from t3flow.service.notifications import messages
from t3flow.service.notifications.apprise_channel import NO_ACCOUNT, PROGRAM, send_apprise
from t3flow.service.notifications.http_channel import NotSent


def test_the_child_has_neither_account_nor_rights(tmp_path: Path) -> None:
    children = Children(tmp_path / "lock")
    message = dict(messages.of_test("k", time.time()))
    with receiving(hang) as receiver:

        def send() -> None:
            with suppress(NotSent):
                send_apprise(children, f"json://127.0.0.1:{receiver.port}/a", "k", message)

        sending = threading.Thread(target=send)
        sending.start()
        receiver.until(lambda: receiver.requests)
        [child] = [each for each in psutil.Process().children(recursive=True) if PROGRAM in " ".join(each.cmdline())]
        status = Path(f"/proc/{child.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert set(fields["Uid"].split()) == set(fields["Gid"].split()) == {str(NO_ACCOUNT)}
        assert fields["Groups"].strip() == ""
        assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert fields["NoNewPrivs"] == "1"
        child.kill()
        sending.join()
