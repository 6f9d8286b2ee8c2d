"""``docs/states.md`` is what the tables in the code say."""

from __future__ import annotations

from pathlib import Path

import pytest

from zray.testing import states


def test_the_page_is_up_to_date() -> None:
    assert states.PAGE.read_text() == states.page(), "run python -m zray.testing.states"


def test_a_page_that_is_out_of_date_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "states.md"
    monkeypatch.setattr(states, "PAGE", page)
    assert states.main(["--check"]) == 1
    assert capsys.readouterr().err == f"{page} is out of date: run python -m zray.testing.states\n"
    assert states.main([]) == 0
    assert states.main(["--check"]) == 0
    page.write_text(page.read_text() + "by hand")
    assert states.main(["--check"]) == 1
