"""Peak memory of a fit on many small images, sampled over the whole process tree.

    python benchmarks/memory.py --rows 20000 --budget 90

The rows are synthetic (noise with a coloured corner): memory depends on their number, not on what they show.
Anonymous memory is counted (mapped files are not), every half second, for the fit's process and all below it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def make_rows(folder: Path, rows: int, size: int) -> None:
    """Write ``rows`` PNG files in four class folders."""
    rng = np.random.default_rng(0)
    for i in range(rows):
        label = i % 4
        image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        image[: size // 2, : size // 2] = (label * 60, 90, 255 - label * 60)
        place = folder / f"class{label}"
        place.mkdir(exist_ok=True)
        Image.fromarray(image).save(place / f"{i}.png")


def tree(root: int) -> list[int]:
    """Return a process and everything below it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += parents.get(pid, [])
    return found


def anonymous(pid: int) -> int:
    """Return a process's anonymous memory in bytes, 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


def main() -> None:
    """Make the rows, run the fit, print the peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--budget", default="90")
    parser.add_argument("--backbone", default="packs/mobilenetv2")
    parser.add_argument("--executor", default="serial")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "rows"
        data.mkdir()
        make_rows(data, given.rows, given.size)
        command = [sys.executable, "-m", "autotransfer", "fit", str(data), "--budget", given.budget, "--offline"]
        command += ["--backbones", given.backbone, "--executor", given.executor, "--out", str(Path(place) / "run")]
        fit = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        peak, largest = 0, 0
        while fit.poll() is None:
            sizes = [anonymous(pid) for pid in tree(fit.pid)]
            peak, largest = max(peak, sum(sizes)), max(largest, *sizes)
            time.sleep(0.5)
        told = json.loads(fit.stdout.read()) if fit.stdout and not fit.returncode else {}
    print(
        json.dumps(
            {
                "rows": given.rows,
                "executor": given.executor,
                "peak_tree_mb": peak // 2**20,
                "peak_process_mb": largest // 2**20,
                "exit": fit.returncode,
                "trials": told.get("trials"),
                "cores": os.cpu_count(),
            }
        )
    )


if __name__ == "__main__":
    main()
