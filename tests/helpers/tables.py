"""Tables of images in a folder: CSV and parquet, with the images beside them or within."""

import csv
import io
import json
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ctxtune.data import load
from ctxtune.data.official_counts import DataWarning
from tests.helpers import trees

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(file, root=None, **options):
    """Load without the warning about columns that are not used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return load("table", root, file=file if isinstance(file, dict) else str(file), **options)


def write_csv(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def photographs(folder: Path, classes: int = 6, images: int = 4) -> list[dict[str, object]]:
    """Image files, and a row for each; the first half of the classes is for training."""
    rows = []
    for label in range(classes):
        for image in range(images):
            path = f"images/{label}_{image}.png"
            trees.write_image(folder / path, label * 100 + image)
            part = "train" if label < classes // 2 else "test"
            rows.append({"path": path, "label": f"bird {label}", "split": part})
    return rows


def png(seed: int, size: tuple[int, int] = (40, 30)) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(content, "PNG")
    return content.getvalue()


def hub_parquet(
    folder: Path, labels: list[int], names: list[str] | None, shards: int = 2, column: str = "label"
) -> Path:
    """Parquet files as the hub's: a struct of bytes and path, a ClassLabel, its names in the schema's metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    feature = {column: {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": feature if names else {}}})}
    for shard, rows in enumerate(np.array_split(np.arange(len(labels)), shards)):
        images = pa.array(
            [{"bytes": png(int(row)), "path": f"{row}.png"} for row in rows],
            STRUCT,
        )
        content = pa.table({"image": images, column: pa.array([labels[row] for row in rows], pa.int64())})
        name = f"{'train' if shard < shards - 1 else 'test'}-{shard:05d}-of-{shards:05d}.parquet"
        pq.write_table(content.replace_schema_metadata(metadata), folder / name, row_group_size=7)
    return folder
