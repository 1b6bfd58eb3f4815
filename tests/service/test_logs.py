"""The log shows no secret, whichever way it gets into a line."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

from t3flow.service import logs
from t3flow.settings import load


@pytest.fixture(autouse=True)
def logger_as_before() -> Iterator[None]:
    yield
    logger.remove()
    logger.configure(patcher=lambda record: None)


@pytest.mark.parametrize("as_json", ["false", "true"])
def test_a_message_an_argument_and_a_traceback_are_clean(
    as_json: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[log]\nlevel = "DEBUG"\njson = {as_json}\n')
    logs.configure(load.load(config, {}))
    logger.debug("asked with --token={}", "abcdEFGH1234")
    try:
        raise ValueError("no session for Authorization: Bearer abcdEFGH5678")
    except ValueError:
        logger.opt(exception=True).error("it failed")
    shown = capsys.readouterr().err
    assert "abcdEFGH" not in shown
    assert "--token=[hidden]" in shown
    assert "Traceback" in shown
    assert "ValueError" in shown
