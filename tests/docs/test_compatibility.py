"""``docs/ray-compatibility.md`` is what the code and the remarks say, and its names are those of Ray."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import zray
from zray.testing import compatibility, remarks
from zray.version import RAY_VERSION

HIDDEN = "and all others that begin with `_`"


def test_the_page_is_up_to_date() -> None:
    assert compatibility.PAGE.read_text() == compatibility.page(), "run python -m zray.testing.compatibility"


def test_a_page_that_is_out_of_date_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "ray-compatibility.md"
    monkeypatch.setattr(compatibility, "PAGE", page)
    assert compatibility.main(["--check"]) == 1
    assert capsys.readouterr().err == f"{page} is out of date: run python -m zray.testing.compatibility\n"
    assert compatibility.main([]) == 0
    assert compatibility.main(["--check"]) == 0


def test_a_name_is_looked_up_where_it_is() -> None:
    assert compatibility.exists("ray.get")
    assert compatibility.exists("ray.exceptions.RayTaskError")
    assert compatibility.exists("ray.util.accelerators.NVIDIA_L4")
    assert compatibility.exists("ray.ObjectRef.hex")
    for missing in ("ray.no_such", "ray.no_such.name", "ray.ObjectRef.no_such", "ray.train.Checkpoint"):
        assert not compatibility.exists(missing)


def test_each_remark_is_about_a_name_of_ray() -> None:
    known = set(compatibility.names())
    known |= {f"{group}.{name}" for group, listed in compatibility.names().items() for name in listed}
    beyond = {"ray.WorkerID", "ray.cross_language.Language"}
    assert {*remarks.DIFFERS, *remarks.MISSING, *remarks.OUT} - known - beyond == set()


def test_each_argument_of_init_has_a_row() -> None:
    rows = [name for names in remarks.INIT for name in names.split(", ")]
    assert len(rows) == len(set(rows))
    taken = {name for name in inspect.signature(zray.init).parameters if name != "kwargs"}
    assert taken == {name for name in rows if not name.startswith("_")} - {"object_spilling_directory"}
    assert any(HIDDEN in remark for _, remark in remarks.INIT.values())


def test_the_names_are_those_of_the_installed_ray() -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    if not ray.__version__.startswith(RAY_VERSION.rpartition(".")[0]):
        pytest.skip(f"Ray {ray.__version__} is installed, and the names are those of {RAY_VERSION}")
    known = compatibility.names()
    for group, listed in compatibility.read_ray().items():
        assert listed == known[group], group
    ours = set(inspect.signature(zray.init).parameters)
    assert set(inspect.signature(ray.init).parameters) <= ours
