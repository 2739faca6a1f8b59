"""Answers that are none: what an MLflow server never says must not count as delivered."""

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.utils import rest_utils

from ctxtune.tracking.answers import check_answers

SEND = "_get_http_response_with_retries"
UPLOAD = "http://host/mlflow/api/2.0/mlflow-artifacts/artifacts/1/a.txt"
WRITE = "http://host/mlflow/api/2.0/mlflow/runs/update"


def answered(
    monkeypatch, method: str, url: str, status: int, body: bytes, sent: str | None = None
) -> requests.Response:
    """What MLflow's client gets of a server's answer."""

    def send(method: str, url: str) -> requests.Response:
        response = requests.Response()
        response.status_code, response._content = status, body
        response.request = requests.Request(sent or method, url).prepare()
        return response

    monkeypatch.setattr(rest_utils, SEND, send)
    check_answers()
    check_answers()
    return getattr(rest_utils, SEND)(method, url)


@pytest.mark.parametrize(
    ("method", "url", "status", "body", "sent"),
    [
        ("POST", WRITE, 200, b"", None),
        ("POST", WRITE, 200, b" \n", None),
        ("PUT", UPLOAD, 200, b"<html>log in</html>", None),
        ("PUT", UPLOAD, 200, b"[]", None),
        ("PUT", UPLOAD, 200, b"{}", "GET"),  # redirected
        ("PUT", UPLOAD, 202, b"", None),
        ("PUT", UPLOAD, 204, b"", None),
    ],
)
def test_they_are_errors(monkeypatch, method, url, status, body, sent):
    with pytest.raises(MlflowException, match="not that of an MLflow server"):
        answered(monkeypatch, method, url, status, body, sent)


@pytest.mark.parametrize(
    ("method", "url", "status", "body"),
    [
        ("POST", WRITE, 200, b"{}"),
        ("POST", WRITE, 404, b""),  # an error is told by MLflow's client
        ("PUT", UPLOAD, 200, b""),
        ("PUT", UPLOAD, 200, b"{}"),
        ("PUT", UPLOAD, 413, b"<html>too large</html>"),
        ("GET", UPLOAD, 200, b""),  # an empty file
    ],
)
def test_others_are_handed_on(monkeypatch, method, url, status, body):
    assert answered(monkeypatch, method, url, status, body).status_code == status


def test_where_mlflow_sends_in_another_way_answers_are_as_it_takes_them(monkeypatch):
    monkeypatch.delattr(rest_utils, SEND)
    check_answers()
    assert not hasattr(rest_utils, SEND)
