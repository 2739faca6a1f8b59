"""Where a command says that its runs can be looked at."""

import pytest

from ctxtune.terminal import report_command, tracking_places
from ctxtune.tuning.callbacks import ui_server

LINK = "http://127.0.0.1:5000/#/experiments/1"


def test_a_database_needs_a_command_that_serves_it() -> None:
    places = tracking_places("sqlite:///mine.db", LINK)
    assert any("mlflow ui --backend-store-uri sqlite:///mine.db" in value for value in places.values())
    assert LINK in places.values()
    assert ui_server("sqlite:///mine.db") == "http://127.0.0.1:5000"


@pytest.mark.parametrize("uri", ["http://tracking.example:8080", "https://me:secret@tracking.example"])
def test_a_server_has_pages_of_its_own(uri: str) -> None:
    page = f"{ui_server(uri)}/#/experiments/1"
    assert "secret" not in page
    assert page.startswith(uri.partition("://")[0]) and "tracking.example" in page
    assert list(tracking_places(uri, page).values()) == [page]
    assert "secret" not in str(tracking_places(uri, None))


def test_the_report_is_told_where_to_look_unless_it_looks_there_anyway(monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert report_command("cars", "sqlite:///mlflow.db").endswith("-m ctxtune.report cars")
    assert report_command("cars", "sqlite:///other.db").endswith("-m ctxtune.report cars --tracking sqlite:///other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert report_command("cars", "sqlite:///other.db").endswith("-m ctxtune.report cars")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert report_command("cars", "sqlite:///other.db").endswith("-m ctxtune.report cars --tracking sqlite:///other.db")
