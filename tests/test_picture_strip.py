"""Queries and their neighbors as one picture: hits and misses are told by color, line and mark."""

import io

import numpy as np
from PIL import Image, ImageColor

from ctxtune.embedded_image import embedded_image
from ctxtune.palette import BLUE, DEEP_VERMILION, VERMILION
from ctxtune.picture_strip import FRAME, GAP, TILE, picture_strip
from ctxtune.retrieved_images import RetrievedImage, ShownQuery

SIDE = TILE + 2 * FRAME


def _picture(size: tuple[int, int]):
    return embedded_image(Image.new("RGB", size, "gray"), "", 56)


def _near(strip: np.ndarray, color: str) -> np.ndarray:
    return (np.abs(strip.astype(int) - np.array(ImageColor.getrgb(color))) < 40).all(-1)


def test_frames_and_marks_say_which_are_hits():
    found = [
        RetrievedImage(class_name="crow", similarity=0.9, right=True, picture=_picture((200, 90))),
        RetrievedImage(
            class_name="a very long name of a class, 漢字", similarity=0.8, right=False, picture=_picture((20, 20))
        ),
        RetrievedImage(class_name="crow", similarity=0.7, right=True, picture=None),
    ]
    query = ShownQuery(row=3, class_name="crow", picture=_picture((60, 90)), found=tuple(found))
    strip = np.asarray(Image.open(io.BytesIO(picture_strip([query, query]))))
    step = SIDE + GAP
    tiles = [strip[GAP : GAP + SIDE, 2 * GAP + column * step :][:, :SIDE] for column in range(1, 4)]
    shares = [[_near(tile[1:FRAME, 20:-20], color).mean() for color in (BLUE, VERMILION)] for tile in tiles]
    assert shares[0][0] > 0.9 and shares[2][0] > 0.9 and shares[0][1] < 0.05
    assert 0.3 < shares[1][1] < 0.7 and shares[1][0] < 0.05  # dashed
    corners = [tile[:14, -14:] for tile in tiles]
    assert _near(corners[1], DEEP_VERMILION).any() and not _near(corners[0], DEEP_VERMILION).any()
    half = (strip.shape[0] - GAP) // 2
    difference = np.abs(strip[GAP : GAP + SIDE].astype(int) - strip[GAP + half :][:SIDE])
    assert difference.mean() < 4  # a row for each query
    assert strip.shape[1] == 3 * GAP + 4 * step
