"""Where a command is to write is looked at before it does anything."""

import sys

import pytest

from ctxtune import ablate, report, sweep
from ctxtune.errors import ConfigError


@pytest.mark.parametrize(
    ("command", "arguments", "option"),
    [
        (ablate, ["ablations/quickstart.yaml"], "--results"),
        (ablate, ["ablations/quickstart.yaml", "--dry-run"], "--results"),
        (sweep, ["search_spaces/quickstart.yaml"], "--results"),
        (report, ["nothing-of-this-name"], "--out"),
        (report, ["--compare", "one", "two"], "--out"),
    ],
)
def test_a_folder_that_cannot_be_made_is_told_first(
    repository, tmp_path, monkeypatch, command, arguments, option
) -> None:  # fmt: skip
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(repository)
    for place in (tmp_path / "file", tmp_path / "file" / "below", "/proc/here"):
        monkeypatch.setattr(sys, "argv", [command.__name__, *arguments, option, str(place)])
        with pytest.raises(ConfigError, match=rf"{option}: nothing can be written in {place}.* another folder"):
            command.main()


def test_looking_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["report", "x", "--out", f"{tmp_path}/a/b", "--tracking", f"sqlite:///{tmp_path}/no.db"]
    )
    with pytest.raises(Exception, match="does not exist"):
        report.main()
    assert not list(tmp_path.iterdir())
