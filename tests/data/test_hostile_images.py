"""Pictures that are odd, huge or broken: the right gray levels, bounded memory, an error in words for everything else."""

import io
import random
import struct
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from ctxtune.data import ImageSettings
from ctxtune.data.reading import evaluation_pixels, training_pixels
from ctxtune.data.sources import decode
from ctxtune.image_modes import to_rgb, without_ends
from ctxtune.models.preprocessing import Preprocessing


def encoded(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def tiff(values: np.ndarray, *, kind: int, bits: int | None = None, white_is_zero: bool = False) -> bytes:
    """A TIFF of one row and one channel by the letter of its specification (TIFF 6.0), which Pillow cannot write itself."""
    data, bits = values.tobytes(), bits or 8 * values.itemsize
    short, long = 3, 4
    tags = [
        (256, short, values.size), (257, short, 1), (258, short, bits), (259, short, 1), (262, short, int(not white_is_zero)),
        (273, long, 8), (277, short, 1), (278, short, 1), (279, long, len(data)), (339, short, kind),
    ]  # fmt: skip
    entries = b"".join(
        struct.pack("<HHI", tag, form, 1) + struct.pack("<HH" if form == short else "<I", *([v, 0] if form == short else [v]))
        for tag, form, v in tags
    )  # fmt: skip
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


def gray(data: bytes) -> list[int]:
    pixels = np.asarray(decode(data))
    assert (pixels == pixels[..., :1]).all()
    return pixels[0, :, 0].tolist()


UNSIGNED, SIGNED, FLOAT = 1, 2, 3


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("value", [0, 1, 255, 256, 511, 4095, 32768, 65279, 65280, 65535])
def test_sixteen_bits_keep_their_high_byte_whatever_else_is_in_the_picture(kind, value):
    for beside in (value, 0, 65535):
        picture = np.full((8, 8), value, dtype=np.uint16)
        picture[:, 4:] = beside
        options = {"irreversible": False} if kind == "JPEG2000" else {}
        assert gray(encoded(picture, kind, **options))[0] == value >> 8


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (tiff(np.array([0, 255, 256, 65535], "<u2"), kind=UNSIGNED), [0, 0, 1, 255]),
        (tiff(np.array([0, 127, 128, 32767], "<i2"), kind=SIGNED), [0, 0, 1, 255]),
        (tiff(np.array([0, 2**24 - 1, 2**24, 2**32 - 1], "<u4"), kind=UNSIGNED), [0, 0, 1, 255]),
        (tiff(np.array([0, 2**23 - 1, 2**23, 2**31 - 1], "<i4"), kind=SIGNED), [0, 0, 1, 255]),
        (tiff(np.array([0.0, 1 / 3, 0.5, 1.0], "<f4"), kind=FLOAT), [0, 85, 128, 255]),
        (tiff(np.array([0, 256, 65279, 65535], "<u2"), kind=UNSIGNED, white_is_zero=True), [255, 254, 1, 0]),
    ],
)
def test_the_depth_is_what_the_file_says(data, expected):
    assert gray(data) == expected


@pytest.mark.parametrize("value", [255.0, -0.1, float("nan"), float("inf"), 1.5])
def test_floating_point_outside_of_black_and_white_is_refused_in_words(value):
    with pytest.raises(ValueError, match=r"black is 0 and white 1 in this format"):
        decode(tiff(np.array([0.5, value], "<f4"), kind=FLOAT))


def test_a_picture_that_is_turned_keeps_its_depth():
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    picture = np.array([[0, 300], [65535, 0]], dtype=np.uint16)
    assert np.asarray(decode(encoded(picture, "PNG", exif=exif)))[..., 0].tolist() == [[255, 0], [0, 1]]


def test_huge_pictures_are_told_in_our_words(monkeypatch):
    data = encoded(Image.new("1", (400, 300)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # as ctxtune.data.sources does
        assert decode(data).size == (400, 300)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000)
    with pytest.raises(OSError, match=r"0 million pixels; images of up to 0 million are read: scale it down"):
        decode(data)


LONG = [(1, 60_000), (60_000, 1), (3, 20_000), (20_000, 2), (40, 30_000)]


@pytest.mark.parametrize("size", LONG)
def test_extreme_aspect_ratios_take_no_gigabytes(size, monkeypatch):
    """Resized whole, the least of them has 49 million pixels, and the first 3,900 million."""
    image = Image.effect_noise(size, 80).convert("RGB")
    settings = ImageSettings(test_resize=256, test_crop=224, train_resize=256)
    made, resize = [], Image.Image.resize

    def watched(picture, *arguments, **options):
        result = resize(picture, *arguments, **options)
        made.append(result.width * result.height)
        return result

    monkeypatch.setattr(Image.Image, "resize", watched)
    pixels = evaluation_pixels(image, settings)
    kept = training_pixels(image, settings)
    prepared = Preprocessing(resize=256, crop=224)([image])
    assert pixels.shape == (224, 224, 3) and tuple(prepared.shape) == (1, 3, 224, 224)
    assert min(kept.size) == 256 and made and max(made) < 2**27


@settings(max_examples=30, deadline=None)
@given(
    width=st.integers(1, 40), height=st.integers(300, 900), resize=st.integers(16, 64), crop=st.integers(8, 64),
    turned=st.booleans(),
)  # fmt: skip
def test_without_its_ends_a_picture_has_the_same_middle(width, height, resize, crop, turned):
    """Against torchvision's resize of the whole picture: the same but for less than a pixel of the source."""
    ramp = np.linspace(0, 255, height)[:, None] * np.ones((1, width))
    ramp = ramp.T if turned else ramp
    image = Image.fromarray(ramp.astype(np.uint8)).convert("RGB")
    whole = v2.functional.center_crop(v2.functional.resize(image, [resize]), [min(crop, resize)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctxtune.image_modes.MOST_PIXELS", 1)
        cut = without_ends(image, resize, min(crop, resize))
    assert cut.width * cut.height <= image.width * image.height
    middle = v2.functional.center_crop(v2.functional.resize(cut, [resize]), [min(crop, resize)])
    step = 255 / height * (1 + width / resize)  # one pixel of the source, or of the result
    difference = np.asarray(whole, dtype=float) - np.asarray(middle, dtype=float)
    assert abs(difference).max() <= 2 * step + 2


def test_what_is_resized_beyond_all_bounds_without_a_crop_is_refused():
    with pytest.raises(ValueError, match=r"leave it out, or cut it"):
        evaluation_pixels(Image.new("RGB", (1, 60_000)), ImageSettings(test_resize=256, test_crop=None))


SOUND = [
    encoded(Image.effect_noise((24, 16), 60).convert(mode), kind)
    for kind, modes in {
        "PNG": ("RGB", "L", "LA", "RGBA", "P", "1", "I;16"), "JPEG": ("RGB", "L", "CMYK"), "GIF": ("P", "L"),
        "TIFF": ("RGB", "I;16", "F", "I", "CMYK", "1", "P"), "BMP": ("RGB", "L", "1", "P"), "WEBP": ("RGB", "RGBA"),
        "PPM": ("RGB", "L", "I", "1"),
    }.items()
    for mode in modes
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 2**32), start=st.sampled_from(SOUND))
def test_broken_files_are_an_oserror_or_a_valueerror(seed, start):
    dice = random.Random(seed)
    data = bytearray(start)
    for _ in range(dice.randint(1, 6)):
        at = dice.randrange(len(data))
        match dice.randrange(4):
            case 0:
                data[at] = dice.randrange(256)
            case 1:
                del data[at : at + dice.randint(1, 40)]
            case 2:
                data[at:at] = dice.randbytes(dice.randint(1, 20))
            case _:
                data[at : at + 4] = b"\xff\xff\xff\xff"
        data = data or bytearray(b"x")
    try:
        assert decode(bytes(data)).mode == "RGB"
    except (OSError, ValueError) as error:
        assert str(error)


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 100, b"GIF89a", b"\x89PNG\r\n\x1a\n", b"II*\0", b"P6 1 1 99999999999999 x", b"BM"]
)
def test_what_is_hardly_a_picture_is_an_oserror_or_a_valueerror(data):
    with pytest.raises((OSError, ValueError)):
        decode(data)


def test_no_other_program_is_started_for_an_image():
    """Pillow would hand this one to Ghostscript, whatever the file is called."""
    with pytest.raises(OSError, match="not an image file"):
        decode(encoded(Image.new("RGB", (4, 4)), "EPS"))


def test_pictures_in_memory_are_taken_as_before():
    assert np.asarray(to_rgb(Image.new("L", (2, 2), 7)))[0, 0].tolist() == [7, 7, 7]
    assert np.asarray(to_rgb(Image.new("RGBA", (2, 2), (9, 9, 9, 0))))[0, 0].tolist() == [255, 255, 255]
    assert torch.isfinite(Preprocessing(resize=8, crop=8)([Image.new("I;16", (9, 9), 256)])).all()
