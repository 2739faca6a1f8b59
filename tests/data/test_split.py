"""What a split is made of."""

import numpy as np
import pytest

from ctxtune.data.split import StringTable


def test_string_table():
    words = ["", "a/b.jpg", "é/漢.png", "last"]
    table = StringTable(words)
    assert list(table) == words and len(table) == 4 and table[-1] == "last"
    assert list(table[np.array([3, 1, 1])]) == ["last", "a/b.jpg", "a/b.jpg"]
    with pytest.raises(IndexError):
        table[4]
