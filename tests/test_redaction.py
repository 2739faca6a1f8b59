"""Addresses are shown without their passwords, and so that one sees which they are."""

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ctxtune.redaction import redact, redact_argument
from ctxtune.tracking.addresses import has_secret, redact_text

SCHEMES = ("postgresql", "postgresql+psycopg2", "mysql", "mysql+pymysql", "mssql+pyodbc", "https", "http")
DATABASES = SCHEMES[:5]
BEHIND = ("", "/", "/tracking", "/tracking?sslmode=require&connect_timeout=3", "?application_name=ctxtune")
HOST = "server.example"

passwords = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=6, max_size=20).filter(
    lambda text: text not in f"://{HOST}:5432/tracking" and "***" not in text
)


def shown_parts(password: str) -> list[str]:
    """The password whole, and every piece of it that is long enough to be one."""
    return [password[start : start + 5] for start in range(len(password) - 4)]


@given(st.sampled_from(SCHEMES), passwords, st.sampled_from(("", ":5432")), st.sampled_from(BEHIND))
def test_an_encoded_password_is_never_shown_and_the_host_always(scheme, password, port, behind):
    uri = f"{scheme}://ada:{quote(password, safe='')}@{HOST}{port}{behind}"
    assert redact(uri) == f"{scheme}://{HOST}{port}{behind.partition('?')[0]}"
    assert has_secret(uri)
    assert redact_argument(f"tracking.uri={uri}") == f"tracking.uri={redact(uri)}"
    said = redact_text(f"login as ada with {password} at {uri} has failed", uri)
    assert password not in said.replace(HOST, "") and HOST in said


@given(st.sampled_from(DATABASES), passwords, st.sampled_from(BEHIND))
@example("postgresql", "se/cret", "/tracking")
@example("postgresql", "12/34secret", "/tracking")
@example("mysql", "s?e=cret", "/tracking?ssl=1")
@example("postgresql", "sec@re/t?cret", "/tracking")
@example("postgresql", "s[cret", "")
@example("postgresql", "0000]/", "")
@example("postgresql", "se]/cret", "/tracking")
def test_databases_take_a_password_as_it_is_and_no_piece_of_it_is_shown(scheme, password, behind):
    uri = f"{scheme}://ada:{password}@{HOST}{behind}"
    shown = redact(uri)
    assert shown in (f"{scheme}://{HOST}{behind.partition('?')[0]}", f"{scheme}://***")
    if not set(password) & set("@/?#"):
        assert HOST in shown
    assert password not in redact_text(f"{password} is wrong; {uri}", uri).replace(HOST, "")


@given(passwords)
def test_a_secret_in_the_query_is_never_shown(password):
    for uri in (
        f"postgresql:///tracking?host=/run/postgresql&password={quote(password, safe='')}",
        f"postgresql://{HOST}/tracking?user=ada&password={password}",
        f"mssql+pyodbc:///?odbc_connect={quote(f'DRIVER=x;SERVER={HOST};PWD={password}')}",
    ):
        assert not any(piece in redact(uri) for piece in shown_parts(password) if piece not in "postgresql:///tracking")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql:///tracking", "postgresql:///tracking"),
        ("postgresql+psycopg2://ada@/tracking?host=/run/postgresql", "postgresql+psycopg2:///tracking"),
        ("postgresql://ada:secret@[::1]:5432/tracking", "postgresql://[::1]:5432/tracking"),
        ("mssql+pyodbc://ada:secret@my_source", "mssql+pyodbc://my_source"),
        ("https://hub:8443/user/ada@uni.edu/proxy/5000", "https://hub:8443/user/ada@uni.edu/proxy/5000"),
        ("https://ada:secret@hub/user/ada@uni.edu/", "https://***"),  # or the password holds a slash
        ("https://[::1]:5000/a@b", "https://[::1]:5000/a@b"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("sqlite:////home/ada@uni.edu/mlflow.db", "sqlite:////home/ada@uni.edu/mlflow.db"),
        ("postgresql:/ada:secret@server/tracking", "postgresql:/***"),
        ("ada:secret@server:5432/tracking", "***"),
        ("package.module:Class", "package.module:Class"),
    ],
)
def test_what_is_shown(uri, shown):
    assert redact(uri) == shown
