"""Rows on their way to workers: once into the object store, and the files of those that a node does not see."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotransfer import engine
from autotransfer.config import Settings


def _kit() -> Any:
    """Return the cluster's tests as a module: their nodes, and their command line."""
    spec = importlib.util.spec_from_file_location("cluster_kit_of_carried", Path(__file__).with_name("test_cluster.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


kit = _kit()
cluster, pictures, needs_namespaces = kit.cluster, kit.pictures, kit.needs_namespaces


@pytest.mark.ray
@pytest.mark.slow
def test_rows_in_memory_go_into_the_object_store_once(
    local_ray: None, stripes: Any, toynet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")
    rows = np.random.default_rng(0).integers(0, 255, (150, 96, 96, 3), dtype=np.uint8)  # 4 MB
    rows[:, :16, :16] = stripes[0]
    sizes: list[int] = []
    put = ray.put

    def counted(value: Any, **more: Any) -> Any:
        from ray import cloudpickle

        sizes.append(len(cloudpickle.dumps(value)))
        return put(value, **more)

    monkeypatch.setattr(ray, "put", counted)
    given: dict[str, Any] = {"plugins": [toynet], "backbones": "toynet/small", "trials": 3, "max_workers": 2}
    model = engine.fit(Settings(data=(rows, stripes[1]), **given))
    assert len(model.run.trials) >= 3
    assert len([s for s in sizes if s > rows.nbytes]) == 1
    assert sum(sizes) < 1.5 * rows.nbytes


@pytest.mark.ray
@pytest.mark.slow
@needs_namespaces
def test_files_go_to_a_node_that_does_not_see_them(
    cluster: Any, pictures: Path, toynet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*kit.fit_flags(pictures, toynet, tmp_path / "far", 2), "--address", cluster.address]
    with cluster.node("--num-cpus=2", "--object-store-memory=100000000", shell=kit.hidden(pictures)):
        code, far, said = kit.cli(*flags, "--resources", "{cpus: 2}")  # only that node has two
    assert code == 0, said
    records = [json.loads(line)["record"] for line in (tmp_path / "far" / "trials.jsonl").read_text().splitlines()]
    assert all(" on " in r["worker"] for r in records if "worker" in r)
    monkeypatch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")
    given: dict[str, Any] = {"plugins": [toynet], "backbones": "toynet/small", "trials": 2, "seed": 1}
    near = engine.fit(Settings(data=pictures, executor="serial", **given))
    assert near.run.test is not None
    assert far["test"] == pytest.approx(near.run.test.value, abs=1e-4)


@pytest.mark.ray
@pytest.mark.slow
@needs_namespaces
def test_files_that_are_too_many_to_be_sent_are_one_error(
    cluster: Any, pictures: Path, toynet: str, tmp_path: Path
) -> None:
    script = (
        "from autotransfer.search import cluster\n"
        "cluster.ROOM = 1e-6\n"  # of 100 MB
        "from autotransfer.cli import main\n"
        "import sys; main(sys.argv[1:])\n"
    )
    (tmp_path / "small.py").write_text(script)
    flags = [*kit.fit_flags(pictures, toynet, tmp_path / "far", 2), "--address", cluster.address]
    with cluster.node("--num-cpus=2", "--object-store-memory=100000000", shell=kit.hidden(pictures)):
        done = kit.subprocess.run(
            [sys.executable, str(tmp_path / "small.py"), *flags, "--resources", "{cpus: 2}"],
            env=kit.environment(),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("error:") == 1
    assert "files of the data that were looked at" in done.stderr
    assert "may be, half of this node's object store" in done.stderr
