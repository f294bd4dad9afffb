"""A torchvision without compiled ops imports; a healthy one is left alone."""

import os
import subprocess
import sys


def run(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr


def test_torchvision_is_mended_once_and_then_imports():
    run(
        "from threading import Thread\nfrom autotransfer.plugin import mend_torchvision\n"
        "threads = [Thread(target=mend_torchvision) for _ in range(4)]\n"
        "[t.start() for t in threads], [t.join() for t in threads]\n"
        "mend_torchvision()\nimport torch, torchvision, timm\nmend_torchvision()\n"
        "assert hasattr(torch.ops.torchvision, 'nms')"
    )


def test_ops_that_are_declared_already_are_left_alone():
    run(
        "import torch\nfrom autotransfer import mend\n"
        "lib = torch.library.Library('torchvision', 'DEF')\n"
        "for op in ('nms', 'qnms'):\n"
        "    lib.define(op + '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
        "mend.mend_torchvision()\nassert not mend._mended"
    )


def test_a_healthy_library_is_loaded_instead_of_declaring():
    run(
        "import torch\nfrom autotransfer import mend\n"
        "def load(path):\n"
        "    global lib\n"
        "    lib = torch.library.Library('torchvision', 'DEF')\n"
        "    lib.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
        "mend._torchvision_libraries = lambda: ['_C.so']\n"
        "torch.ops.load_library = load\n"
        "mend.mend_torchvision()\nassert not mend._mended"
    )


def test_a_plugin_can_call_it_without_paying_for_torch_before():
    run("import sys, autotransfer.plugin\nassert 'torch' not in sys.modules")
