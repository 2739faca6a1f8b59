"""The colors of figures and pages: told apart by color-blind readers, dark enough on white paper."""

# Okabe and Ito ("Color Universal Design", 2008), brown in place of the yellow, which vanishes on white.
BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK, BROWN = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#8C6D1F",
)  # fmt: skip
COLORS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK, BROWN)
"""Of series and classes, in this order."""
COLOR_MAP = "cividis"
"""Even in lightness, made for color-blind readers."""

PAPER = "#ffffff"
INK = "#1b1f24"  # text
DARK = "#3d444d"  # captions, unmarked points
QUIET = "#57606a"  # secondary text, axes, lines at zero
GRAY = "#8b949e"  # what stands behind
LIGHT = "#d0d5db"  # broad bars, frames
RULE = "#e3e7eb"  # grid lines, lines of tables
TINT = "#f3f7fb"  # behind findings
LINK = "#0059a8"
DEEP_VERMILION = "#b34700"  # behind white text

PAGE_COLORS = {
    "paper": PAPER,
    "ink": INK,
    "dark": DARK,
    "quiet": QUIET,
    "gray": GRAY,
    "light": LIGHT,
    "rule": RULE,
    "tint": TINT,
    "link": LINK,
    "blue": BLUE,
    "vermilion": VERMILION,
    "deep-vermilion": DEEP_VERMILION,
}
"""The colors of HTML pages, by the name of their CSS variable."""
