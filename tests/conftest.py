"""What all tests share: no network, one thread, a tiny backbone as a single-file plugin, one local Ray."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", RAY_ENABLE_UV_RUN_RUNTIME_ENV="0")
TOYS = Path(__file__).parent / "toys"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sockets reach this machine alone: Ray's processes talk to each other, and nobody to the outside."""
    connect = socket.socket.connect
    own = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}

    def guarded(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else "127.0.0.1"
        if host not in own and host != "localhost" and not ipaddress.ip_address(host).is_loopback:
            raise OSError(f"a test tried to reach {host}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the tests a cache folder of their own, with the fetched weights in it: fits leave their memory there."""
    from autotransfer.weights import cache_folder

    own, there = tmp_path_factory.mktemp("cache"), cache_folder() / "weights"
    there.mkdir(parents=True, exist_ok=True)
    (own / "weights").symlink_to(there)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOTRANSFER_HOME", str(own))
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toynet() -> str:
    """Path of a single-file plugin with a tiny convolutional backbone."""
    return str(TOYS / "toynet.py")


@pytest.fixture(scope="session")
def stripes() -> tuple[np.ndarray, np.ndarray]:
    """Images ``uint8`` [150, 16, 16, 3] of noise with a stripe whose direction is the class, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(150) % 3
    images = rng.integers(0, 160, (150, 16, 16, 3)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        at = rng.integers(2, 13)
        if label == 0:
            image[at : at + 2] += 90
        elif label == 1:
            image[:, at : at + 2] += 90
    return images, np.array(["row", "column", "none"])[labels]


@pytest.fixture(scope="session")
def toys() -> Any:
    """The tiny networks, rows and trainings of the train floor's tests, for tests of what trains them."""
    spec = importlib.util.spec_from_file_location("tiny_nets", Path(__file__).parent / "train" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray with two workers for all tests that need it; a fit uses the one that is there."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory, toynet: str, stripes: tuple[np.ndarray, np.ndarray]) -> Path:
    """Folder of a real finished run on the tiny backbone, without baselines: two trials in this process."""
    from autotransfer import engine
    from autotransfer.config import Settings

    out = tmp_path_factory.mktemp("toy") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOTRANSFER_PLUGINS", "core=autotransfer_strategies")
        settings = Settings(
            data=stripes, trials=2, executor="serial", plugins=[toynet], backbones="toynet/small", out=out
        )
        engine.fit(settings)
    return out


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Where the weights were fetched before the tests, a test that skips for want of them has failed."""
    report = yield
    needed = os.environ.get("AUTOTRANSFER_TESTS_NEED_WEIGHTS") and item.get_closest_marker("weights")
    if report.skipped and needed:
        report.outcome = "failed"
        report.longrepr = f"skipped although its weights were fetched: {report.longrepr}"
    return report
