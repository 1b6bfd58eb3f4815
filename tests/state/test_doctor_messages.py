"""The doctor on the URLs of channels: they are secrets, and belong where only root can read them."""

from collections.abc import Callable

from t3flow.host.host import Host, open_host
from t3flow.settings.load import load
from t3flow.state.doctor.messages import messages_arrive


def test_a_url_that_every_account_can_read_is_a_finding(bare: Callable[..., Host]) -> None:
    """Not one from the environment, and not a file that others cannot read."""
    host = bare(extra='[notify]\nwebhook_url = "https://hooks.example/TOKEN"\n')
    [path] = {
        source.removeprefix("file ") for key, source in host.settings.sources.items() if key == "notify.webhook_url"
    }
    from pathlib import Path

    file = Path(path)
    file.chmod(0o644)
    [found] = messages_arrive(host)
    assert found.problem == f"every account can read notify.webhook_url, which is a secret, in {file}"
    assert "T3FLOW_NOTIFY__WEBHOOK_URL=…" in found.remedy
    assert found.remedy.endswith(f"chmod o= {file}")
    file.chmod(0o640)
    assert list(messages_arrive(host)) == []
    file.chmod(0o644)
    file.write_text(file.read_text().partition("[notify]")[0])
    settings = load(file, {"T3FLOW_NOTIFY__WEBHOOK_URL": "https://hooks.example/TOKEN"})
    assert list(messages_arrive(open_host(settings, host.journal))) == []
