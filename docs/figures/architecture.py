"""Draw the rooms of the package and who imports whom: python docs/figures/architecture.py OUT.svg

The rooms' floors are the layers of the import-linter contract in pyproject.toml; the arrows are the imports that the
code really has. Modules that stand alone are drawn as two rooms: the commands on top, and what everybody may use below. An
arrow that follows from others is left out.
"""

import sys
from pathlib import Path

import grimp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = "ctxtune"
WIDTH, FLOOR, ROOM_HEIGHT = 9.0, 1.15, 0.5
COLORS = ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#57606a")


COMMANDS, FOUNDATION = "commands", "foundation"


def floors() -> tuple[list[list[str]], dict[str, list[str]]]:
    """The rooms of each layer, the lowest first, and the modules of each room."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    listed = [[room.strip() for room in layer.split("|")] for layer in reversed(layers)]
    rooms = [[room for room in layer if (REPOSITORY / PACKAGE / room).is_dir()] for layer in listed]
    first = next(height for height, layer in enumerate(rooms) if layer)
    alone = [(height, room) for height, layer in enumerate(listed) for room in layer if room not in rooms[height]]
    members = {room: [room] for layer in rooms for room in layer}
    members[FOUNDATION] = [room for height, room in alone if height <= first]
    members[COMMANDS] = [room for height, room in alone if height > first]
    return [[FOUNDATION], *(layer for layer in rooms if layer), [COMMANDS]], members


def imports(members: dict[str, list[str]]) -> set[tuple[str, str]]:
    """Pairs (importer, imported) of rooms."""
    graph = grimp.build_graph(PACKAGE)
    return {
        (importer, imported)
        for importer in members
        for imported in members
        if importer != imported
        and any(
            _imports(graph, f"{PACKAGE}.{one}", f"{PACKAGE}.{other}")
            for one in members[importer]
            for other in members[imported]
        )
    }


def without_shortcuts(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows from which all others follow."""

    def reaches(start: str, goal: str, without: tuple[str, str]) -> bool:
        seen, open_rooms = {start}, [start]
        while open_rooms:
            room = open_rooms.pop()
            onward = {to for source, to in arrows if source == room and (source, to) != without} - seen
            seen |= onward
            open_rooms += onward
        return goal in seen

    return {arrow for arrow in arrows if not reaches(*arrow, without=arrow)}


def _imports(graph: grimp.ImportGraph, importer: str, imported: str) -> bool:
    if not {importer, imported} <= graph.modules:
        return False
    inside = {importer, *graph.find_descendants(importer)}
    target = {imported, *graph.find_descendants(imported)}
    return any(target & graph.find_modules_directly_imported_by(module) for module in inside)


def draw(axes: Axes, layers: list[list[str]], arrows: set[tuple[str, str]]) -> None:
    """Rooms as boxes, floor by floor; arrows from importer to imported."""
    places: dict[str, tuple[float, float]] = {}
    for height, rooms in enumerate(layers):
        for number, room in enumerate(rooms):
            places[room] = (WIDTH * (number + 1) / (len(rooms) + 1), FLOOR * height)
    color = {room: COLORS[height % len(COLORS)] for height, rooms in enumerate(layers) for room in rooms}
    for importer, imported in sorted(arrows):
        (x, y), (to_x, to_y) = places[importer], places[imported]
        axes.annotate(
            "",
            xy=(to_x, to_y + ROOM_HEIGHT / 2),
            xytext=(x, y - ROOM_HEIGHT / 2),
            arrowprops={"arrowstyle": "-|>", "color": color[importer], "alpha": 0.6, "linewidth": 1.2},
        )
    for room, (x, y) in places.items():
        axes.text(
            x,
            y,
            room,
            ha="center",
            va="center",
            fontsize=11,
            bbox={"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": color[room], "linewidth": 1.4},
        )
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(-0.7, FLOOR * len(layers) - 0.4)
    axes.set_axis_off()


def main(path: str) -> None:
    """Write the figure."""
    layers, members = floors()
    figure, axes = plt.subplots(figsize=(WIDTH, 0.85 * len(layers)))
    draw(axes, layers, without_shortcuts(imports(members)))
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None} if path.endswith(".svg") else None)


if __name__ == "__main__":
    main(sys.argv[1])
