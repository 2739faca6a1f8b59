"""`glyphs`: a retrieval data set rendered from the fonts that matplotlib ships. No download.

A class is a letter, an image is that letter in one font (upright, bold, slanted; sans, monospaced, serif). Letters
whose bitmaps are equal in half the fonts that have both, or more (Latin A, Greek Alpha, Cyrillic A), are one class,
because no model could tell them apart. The super-class is the base letter where at least eight classes share it
(à, â, Ã, å ... belong to `latin a`), otherwise the script. Super-classes, and so base letters, are either in train or
in test, never in both: `TEST_LETTERS` and `TEST_SCRIPTS` say which.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from ctxtune.data.cache import default_cache_directory
from ctxtune.data.split import Benchmark, Split, make_split
from ctxtune.errors import DataError

FONTS = tuple(
    [f"DejaVu{family}{style}" for family in ("Sans", "SansMono") for style in ("", "-Bold", "-Oblique", "-BoldOblique")]
    + [f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")]
    + [f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")]
)
"""The text fonts among matplotlib's; the others are symbols, or placeholders for every character."""

LETTERS = ("Lu", "Ll", "Lt", "Lo")
"""Unicode categories: cased letters and letters of scripts without case."""
RULES = 1
"""Raise it whenever the rules of this module change what the data set is."""
LEAST_FONTS = 12
LEAST_CLASSES_OF_A_BASE_LETTER = 8
COMPARISON_SIZE = 48
"""Pixels per em at which bitmaps are compared, whatever size the images have: the classes never depend on it."""

SCRIPTS = ("latin", "greek", "cyrillic", "armenian", "georgian")
TEST_LETTERS = frozenset("bdlnorsuvyz")
"""Latin base letters of the test side, with every Greek or Cyrillic letter that shares a class with one of them."""
TEST_SCRIPTS = frozenset({"greek", "cyrillic", "armenian"})
"""Scripts of the test side, as far as their letters do not look like a Latin letter. All others are for training."""


@dataclass(frozen=True)
class GlyphClass:
    """One class: the characters that look alike, lowest code point first, and where they belong."""

    characters: str
    super_class: str
    test: bool

    @property
    def name(self) -> str:
        """The first character and its Unicode name."""
        return f"{self.characters[0]} {unicodedata.name(self.characters[0], 'UNNAMED')}"


@dataclass(frozen=True)
class Catalog:
    """All classes in a fixed order, and which characters each font has."""

    classes: tuple[GlyphClass, ...]
    coverage: dict[str, frozenset[str]]


def font_folder() -> Path:
    """Where matplotlib keeps its fonts."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def font_file(font: str) -> Path:
    """The file of a font of `FONTS`. Raises DataError where this matplotlib does not have it."""
    path = font_folder() / f"{font}.ttf"
    if not path.is_file():
        raise DataError(f"glyphs: matplotlib's font {font} is missing (looked for {path}); reinstall matplotlib")
    return path


@functools.cache
def fonts_digest() -> str:
    """A hash over the font files and the renderer: it decides what the data set is."""
    digest = hashlib.sha256(f"{RULES} {features.version('freetype2')}".encode())
    for font in FONTS:
        digest.update(font.encode() + font_file(font).read_bytes())
    return digest.hexdigest()


@functools.lru_cache(maxsize=64)
def _font(font: str, size: int) -> ImageFont.FreeTypeFont:
    # The basic layout needs no optional library, so every machine renders the same.
    return ImageFont.truetype(str(font_file(font)), size, layout_engine=ImageFont.Layout.BASIC)


def _coverage() -> dict[str, frozenset[str]]:
    from matplotlib.ft2font import FT2Font

    return {
        font: frozenset(
            chr(code)
            for code in FT2Font(str(font_file(font))).get_charmap()
            if unicodedata.category(chr(code)) in LETTERS
        )
        for font in FONTS
    }


class _Groups:
    """Disjoint sets; the member that sorts first under `_script_first` stands for its set."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def find(self, item: str) -> str:
        while self._parent.setdefault(item, item) != item:
            item = self._parent[item]
        return item

    def join(self, first: str, second: str) -> None:
        low, high = sorted((self.find(first), self.find(second)), key=_script_first)
        self._parent[high] = low


def _script_first(name: str) -> tuple[int, str]:
    script = name.split()[0]
    return (SCRIPTS.index(script) if script in SCRIPTS else len(SCRIPTS)), name


def _look_alikes(coverage: dict[str, frozenset[str]], letters: frozenset[str]) -> Iterable[tuple[str, str]]:
    """Pairs of letters with equal bitmaps in at least half the fonts that have both."""
    equal: Counter[tuple[str, str]] = Counter()
    for font in FONTS:
        same: dict[tuple[tuple[int, int], bytes], list[str]] = defaultdict(list)
        for letter in sorted(coverage[font] & letters):
            mask, _ = _font(font, COMPARISON_SIZE).getmask2(letter, mode="L")
            same[mask.size, bytes(mask)].append(letter)
        for group in same.values():
            equal.update((low, high) for index, high in enumerate(group) for low in group[:index])
    for (low, high), count in sorted(equal.items()):
        if 2 * count >= sum(low in covered and high in covered for covered in coverage.values()):
            yield low, high


def base_letter(letter: str) -> str:
    """The script and letter under the diacritics: `latin a` for à, Ǻ and ⱥ, `greek ω` for ᾧ.

    By Unicode's compatibility decomposition and, for Latin letters that have none (hooks, strokes, turned and small
    capital forms), by the single letter in the character's name.
    """
    parts = unicodedata.normalize("NFKD", letter)
    base = next((part for part in parts if unicodedata.category(part) in LETTERS), letter)
    name = unicodedata.name(base, "UNNAMED")
    script = name.split()[0].lower()
    if script == "latin" and (found := re.match(r"LATIN .*?\b([A-Z])\b", name)):
        return f"latin {found.group(1).lower()}"
    return f"{script} {base.casefold()[0]}"


@functools.cache
def catalog() -> Catalog:
    """The classes: kept in the cache folder by the hash of the fonts, or worked out (a second or two) and kept there."""
    file = default_cache_directory() / f"glyphs-classes-{fonts_digest()[:16]}.json"
    try:
        text, checksum = file.read_text(encoding="utf-8").split("\n")
        if zlib.crc32(text.encode()) == int(checksum):
            return _from_json(text)
    except (OSError, ValueError):
        pass  # missing or damaged
    found = work_out_catalog()
    text = json.dumps(
        {
            "classes": [[item.characters, item.super_class, item.test] for item in found.classes],
            "coverage": {font: "".join(sorted(letters)) for font, letters in found.coverage.items()},
        }
    )
    with contextlib.suppress(OSError):  # nothing is lost without a cache but a second
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        temporary.write_text(f"{text}\n{zlib.crc32(text.encode())}", encoding="utf-8")
        temporary.replace(file)
    return found


def _from_json(text: str) -> Catalog:
    content = json.loads(text)
    classes = tuple(GlyphClass(characters, name, test) for characters, name, test in content["classes"])
    return Catalog(classes, {font: frozenset(letters) for font, letters in content["coverage"].items()})


def work_out_catalog() -> Catalog:
    """Find the classes by rendering each letter in each font once. Deterministic for given font files."""
    coverage = _coverage()
    counts = Counter(letter for covered in coverage.values() for letter in covered)
    letters = frozenset(letter for letter, count in counts.items() if count >= LEAST_FONTS)
    alike = _Groups()
    for low, high in _look_alikes(coverage, letters):
        alike.join(low, high)
    members_of: defaultdict[str, list[str]] = defaultdict(list)
    for letter in sorted(letters):
        members_of[alike.find(letter)].append(letter)
    classes = {members[0]: members for members in members_of.values()}

    bases = _Groups()
    for members in classes.values():
        for member in members:
            bases.join(base_letter(members[0]), base_letter(member))
            bases.join(base_letter(member), base_letter(member.casefold()[0]))  # some capitals have names of their own
    sizes = Counter(bases.find(base_letter(leader)) for leader in classes)

    def describe(leader: str) -> GlyphClass:
        base = bases.find(base_letter(leader))
        script, letter = base.split()
        super_class = base if sizes[base] >= LEAST_CLASSES_OF_A_BASE_LETTER else script
        test = letter in TEST_LETTERS if script == "latin" else script in TEST_SCRIPTS
        if super_class == "latin" and test:
            super_class = base  # the other Latin letters are for training, all of them
        return GlyphClass("".join(classes[leader]), super_class, test)

    return Catalog(tuple(describe(leader) for leader in sorted(classes)), coverage)


class GlyphSource:
    """Renders `FONT/HEX` identifiers, black on white, at a common scale and on a common baseline."""

    gray = True

    def __init__(self, size: int) -> None:
        self.size = size
        self.image_size = (size, size)

    def read(self, path: str) -> Image.Image:
        """The letter as an RGB square."""
        return self.read_gray(path).convert("RGB")

    def read_gray(self, path: str) -> Image.Image:
        """The letter as a grayscale square: 0.72 of the side per em, so that accents and tails stay inside."""
        font, code = path.split("/")
        image = Image.new("L", (self.size, self.size), 255)
        ImageDraw.Draw(image).text(
            (self.size / 2, round(0.74 * self.size)),
            chr(int(code, 16)),
            fill=0,
            font=_font(font, max(6, round(0.72 * self.size))),
            anchor="ms",
        )
        return image

    def encoded(self, path: str) -> None:
        """There is no file."""
        return

    def size_in_bytes(self, path: str) -> int:
        """There is no file."""
        return 0

    def stamp(self, path: str) -> tuple[int, int]:
        """There is no file; the fonts are in the description."""
        return 0, 0

    def description(self) -> str:
        """The fonts, the renderer and the size."""
        return f"glyphs {self.size} {fonts_digest()}"


def _images(classes: Iterable[GlyphClass], coverage: dict[str, frozenset[str]]) -> tuple[list[str], list[int]]:
    """One image per class and font that has it: of look-alikes, the first character that the font has."""
    paths, labels = [], []
    for label, glyph_class in classes_by_label(classes):
        for font in FONTS:
            character = next((item for item in glyph_class.characters if item in coverage[font]), None)
            if character is not None:
                paths.append(f"{font}/{ord(character):04X}")
                labels.append(label)
    return paths, labels


def classes_by_label(classes: Iterable[GlyphClass]) -> Iterable[tuple[int, GlyphClass]]:
    """The label of a class is the code point of its first character: stable under other fonts or splits."""
    return ((ord(glyph_class.characters[0]), glyph_class) for glyph_class in classes)


def load_glyphs(image_size: int = 32) -> Benchmark:
    """The data set with images of `image_size` pixels; nothing but the classes is worked out here."""
    found = catalog()
    super_classes = sorted({item.super_class for item in found.classes}, key=_script_first)
    source = GlyphSource(image_size)

    def split(name: str, test: bool) -> Split:
        chosen = [item for item in found.classes if item.test is test]
        paths, labels = _images(chosen, found.coverage)
        super_of = {label: super_classes.index(item.super_class) for label, item in classes_by_label(chosen)}
        names = {label: item.name for label, item in classes_by_label(chosen)}
        return make_split(f"glyphs/{name}", source, paths, labels, np.array([super_of[x] for x in labels]), names)

    return Benchmark(
        "glyphs",
        split("train", False),
        split("test", True),
        None,
        None,
        (1, 2, 4, 8),
        f"{len(FONTS)} fonts of matplotlib",
    )
