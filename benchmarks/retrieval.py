"""Retrieval scores against pytorch-metric-learning's AccuracyCalculator and a bare exact nearest-neighbor search.

    python benchmarks/retrieval.py                       # 5,924; 14,218 x 12,612; 60,502 embeddings of 512 dimensions
    python benchmarks/retrieval.py --sizes cub --repeats 5 --threads 1
    python benchmarks/retrieval.py --sizes large-classes # 10,000 embeddings in 10 classes
    python benchmarks/retrieval.py --sizes million       # ctxtune alone: 10,000 queries in a gallery of a million

Every measurement runs in a process of its own; those of one size take turns, so that a busy machine slows all alike.
Time is that of the fastest run, memory the peak of the resident set above what it was with the embeddings loaded.
All find the same k: the most matches any query has, what R-precision and MAP@R need.
The bare searches only search: `bare faiss` is IndexFlatIP on normalized embeddings, `bare torch` chunks of a matrix
product with topk.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

SIZES = {
    "small": {"classes": 250, "queries": 5000, "gallery": None, "dimension": 64, "spread": 0.7},
    "cub": {"classes": 100, "queries": 5924, "gallery": None, "dimension": 512, "spread": 0.25},
    "inshop": {"classes": 3985, "queries": 14218, "gallery": 12612, "dimension": 512, "spread": 0.45},
    "medium": {"classes": 1000, "queries": 20000, "gallery": None, "dimension": 512, "spread": 0.35},
    "sop": {"classes": 11316, "queries": 60502, "gallery": None, "dimension": 512, "spread": 0.45},
    "million": {"classes": 200000, "queries": 10000, "gallery": 1000000, "dimension": 512, "spread": 0.5},
    "large-classes": {"classes": 10, "queries": 10000, "gallery": None, "dimension": 64, "spread": 0.25},
}
CONTENDERS = ("ctxtune", "ctxtune faiss", "calculator", "bare faiss", "bare torch")
TORCH_CHUNK = 1024


def embeddings(classes, number, dimension, spread, seed):
    """Noise around class centers, float32; labels cover every class before any repeats."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % classes
    labels = labels[torch.randperm(number, generator=generator)]
    centers = torch.randn(classes, dimension, generator=torch.Generator().manual_seed(7)) * spread
    points = torch.empty(number, dimension)
    for start in range(0, number, 65536):
        part = labels[start : start + 65536]
        points[start : start + len(part)] = torch.randn(len(part), dimension, generator=generator) + centers[part]
    return points, labels


def load(size):
    """Embeddings and labels of queries and gallery; None and None where the queries are searched in themselves."""
    spec = SIZES[size]
    queries = embeddings(spec["classes"], spec["queries"], spec["dimension"], spec["spread"], 0)
    if spec["gallery"] is None:
        return *queries, None, None
    return *queries, *embeddings(spec["classes"], spec["gallery"], spec["dimension"], spec["spread"], 1)


def neighbors_needed(query_labels, gallery_labels):
    """The most matches that any query has, its own item included."""
    counts = torch.bincount(query_labels if gallery_labels is None else gallery_labels)
    return int(counts.max())


def run(contender, queries, query_labels, gallery, gallery_labels):
    """Seconds-to-be: do the work once and return the scores, or nothing for a bare search."""
    if contender.startswith("ctxtune"):
        from ctxtune.retrieval import score

        backend = "faiss" if contender.endswith("faiss") else "auto"
        scores = score(queries, query_labels, gallery, gallery_labels, recall_at=(1,), backend=backend)
        return {"precision_at_1": scores.recall_at[1], "r_precision": scores.r_precision, "map_at_r": scores.map_at_r}
    if contender == "calculator":
        from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

        include = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
        calculator = AccuracyCalculator(include=include, k="max_bin_count", device=torch.device("cpu"))
        # The calculator ranks by Euclidean distance; on normalized embeddings that is the cosine's order.
        normalized = torch.nn.functional.normalize(queries)
        other = None if gallery is None else torch.nn.functional.normalize(gallery)
        found = calculator.get_accuracy(normalized, query_labels, other, gallery_labels)
        found["map_at_r"] = found.pop("mean_average_precision_at_r")
        return found
    neighbors = neighbors_needed(query_labels, gallery_labels)
    normalized = torch.nn.functional.normalize(queries)
    other = normalized if gallery is None else torch.nn.functional.normalize(gallery)
    if contender == "bare faiss":
        import faiss

        index = faiss.IndexFlatIP(other.shape[1])
        index.add(other.numpy())
        index.search(normalized.numpy(), neighbors)
    else:
        for start in range(0, len(normalized), TORCH_CHUNK):
            (normalized[start : start + TORCH_CHUNK] @ other.T).topk(neighbors, dim=1)
    return None


def resident_bytes(field):
    """VmRSS (now) or VmHWM (the peak since the last reset) of this process, from Linux's /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def measure(contender, size, threads):
    """One measurement, in this process: seconds, processor seconds, peak bytes above the embeddings, scores."""
    torch.set_num_threads(threads)
    if "faiss" in contender or contender == "calculator":
        import faiss

        faiss.omp_set_num_threads(threads)
    data = load(size)
    warm = torch.randn(64, data[0].shape[1]), torch.arange(64) % 8
    run(contender, *warm, None, None)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes("VmRSS")
    started, processor = time.perf_counter(), time.process_time()
    scores = run(contender, *data)
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    peak = resident_bytes("VmHWM") - before
    return {"seconds": seconds, "processor_seconds": processor, "peak_bytes": peak, "scores": scores}


def measure_apart(contender, size, threads):
    """The same in a fresh process."""
    command = [sys.executable, __file__, "--measure", contender, "--sizes", size, "--threads", str(threads)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def compare(size, contenders, threads, repeats):
    """Measure in turns and print a table; returns the figures."""
    results = {contender: [] for contender in contenders}
    for _ in range(repeats):
        for contender in contenders:
            results[contender].append(measure_apart(contender, size, threads))
    spec = SIZES[size]
    gallery = "itself" if spec["gallery"] is None else f"{spec['gallery']:,}"
    print(f"\n{size}: {spec['queries']:,} in {gallery} x {spec['dimension']}, {threads} threads, best of {repeats}")
    print(f"{'':14}{'seconds':>9}{'ratio':>8}{'CPU s':>9}{'ratio':>8}{'peak MiB':>10}   scores")
    best = {
        contender: {key: min(row[key] for row in rows) for key in ("seconds", "processor_seconds", "peak_bytes")}
        for contender, rows in results.items()
    }
    own = best["ctxtune"]
    for contender, row in best.items():
        scores = results[contender][0]["scores"] or {}
        print(
            f"{contender:14}{row['seconds']:9.3f}{own['seconds'] / row['seconds']:8.2f}"
            f"{row['processor_seconds']:9.3f}{own['processor_seconds'] / row['processor_seconds']:8.2f}"
            f"{row['peak_bytes'] / 2**20:10.0f}   {' '.join(f'{key} {value:.6f}' for key, value in scores.items())}",
            flush=True,
        )
    known = [rows[0]["scores"] for rows in results.values() if rows[0]["scores"]]
    for scores in known[1:]:
        if any(not np.isclose(scores[key], known[0][key], atol=2e-5) for key in known[0]):
            print("THE SCORES DIFFER")
    return best


def main():
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["cub", "inshop", "sop"])
    usual = [contender for contender in CONTENDERS if contender != "ctxtune faiss"]
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=usual)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.sizes[0], arguments.threads)))
        return
    for size in arguments.sizes:
        contenders = ["ctxtune"] if size == "million" else ["ctxtune", *arguments.contenders]
        compare(size, list(dict.fromkeys(contenders)), arguments.threads, arguments.repeats)


if __name__ == "__main__":
    main()
