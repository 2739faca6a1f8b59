"""Checkpoints on shared folders and object stores."""

import os

import pytest

from ctxtune.errors import ConfigError
from ctxtune.tuning.backend.storage import check_storage, try_storage
from tests.helpers.clusters import s3_keys, s3_server


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with s3_server(tmp_path_factory.mktemp("store")) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment


def test_an_object_store_that_works_is_found_to_work_and_left_empty(store):
    assert try_storage("s3://ctxtune/deep/folder") is None
    assert not [key for key in s3_keys(store) if not key.endswith("/")]  # pyarrow marks the folder


def test_a_bucket_that_is_not_there_is_said(store):
    problem = try_storage("s3://no-such-bucket/sweeps")
    assert problem and "s3://no-such-bucket/sweeps cannot be written" in problem


def test_a_folder_works_and_one_that_cannot_be_made_is_said(tmp_path):
    assert try_storage(str(tmp_path / "new")) is None
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("")
    problem = try_storage(str(tmp_path / "file/below"))
    assert problem and "cannot be written" in problem


@pytest.mark.parametrize(
    "address",
    [
        "s3://KEY123:verysecret@bucket/sweeps",
        "s3://bucket/sweeps?access_key=KEY123&secret_key=verysecret",
        "gs://bucket/sweeps#verysecret",
    ],
)
def test_keys_in_an_address_are_refused_and_not_shown(address):
    with pytest.raises(ConfigError) as refused:
        check_storage(address)
    assert "verysecret" not in str(refused.value) and "KEY123" not in str(refused.value)
    assert "AWS_SHARED_CREDENTIALS_FILE" in str(refused.value)


@pytest.mark.parametrize("address", ["sweeps", "./sweeps", "ftp://host/sweeps", "s4://bucket"])
def test_other_places_are_refused_in_words(address):
    with pytest.raises(ConfigError, match="s3://BUCKET/sweeps"):
        check_storage(address)


def test_good_addresses_are_made_uniform():
    assert check_storage("s3://bucket/sweeps/") == "s3://bucket/sweeps"
    assert check_storage("gs://bucket") == "gs://bucket"
    assert check_storage("/nfs/sweeps/") == "/nfs/sweeps"
    assert check_storage("~/sweeps") == os.path.expanduser("~/sweeps")  # noqa: PTH111 - the independent way
