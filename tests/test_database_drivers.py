"""Where Python has no driver for a database, one is told which package to install."""

import re
import sys

import pytest

from ctxtune.config import load_search_space
from ctxtune.database_drivers import missing_driver
from ctxtune.errors import ConfigError, TrackingError
from ctxtune.tracking.connection import check_driver
from ctxtune.tuning.search.optuna_storage import StorageMirror


@pytest.mark.parametrize(
    ("address", "module", "package"),
    [
        ("postgresql", "psycopg", "psycopg[binary]"),
        ("postgresql+psycopg2", "psycopg2", "psycopg2-binary"),
        ("mysql", "MySQLdb", "mysqlclient"),
        ("mysql+pymysql", "pymysql", "pymysql"),
        ("mssql", "pyodbc", "pyodbc"),
    ],
)
def test_the_package_is_named_and_no_secret(monkeypatch, address, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    words = re.escape(f"{address}://server/db cannot be used: Python has no {module},")
    with pytest.raises(TrackingError, match=words) as told:
        check_driver(f"{address}://ada:lovelace@server/db")
    assert f"pip install '{package}'" in str(told.value) and "lovelace" not in str(told.value)


def test_a_driver_that_is_there_is_named_and_used(monkeypatch):
    pytest.importorskip("psycopg2")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert "or write postgresql+psycopg2://" in (missing_driver("postgresql://server/db") or "")
    assert missing_driver("postgresql+psycopg2://server/db") is None


def test_what_is_no_database_of_mlflows_is_not_looked_at():
    for address in ("sqlite:///mlflow.db", "http://server:5000", "databricks", "nothing://server"):
        assert missing_driver(address) is None


def test_a_driver_that_nobody_knows_is_told():
    assert missing_driver("postgresql+nothing://h/db") == (
        "SQLAlchemy knows no driver nothing for postgresql; write postgresql+psycopg2://..."
    )


def test_optunas_storage_tells_it_too(monkeypatch, repository):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    cars = load_search_space(repository / "search_spaces/cars.yaml", ["tracking.optuna=postgresql://me:T0KEN@h/db"])
    with pytest.raises(ConfigError, match=r"tracking\.optuna: postgresql://h/db cannot be opened .*psycopg\[binary\]"):
        StorageMirror(cars, print)
