"""The tensors of an ONNX file, and the nodes that use them. Nothing of the graph is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from autotransfer.plugin import WeightsError


@dataclass(frozen=True)
class Node:
    """One operation of the graph."""

    kind: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class OnnxFile:
    """What a converter needs of an ONNX file."""

    path: Path
    nodes: tuple[Node, ...]
    """In the order in which they run."""
    tensors: dict[str, Tensor]
    """The stored tensors, ``float32``, by name."""

    def tensor(self, name: str) -> Tensor:
        """Return a stored tensor.

        Raises:
            WeightsError: there is none of this name.
        """
        if name not in self.tensors:
            raise WeightsError(f"{self.path} holds no tensor {name!r}; it is another version of the pack")
        return self.tensors[name]


def read(path: Path) -> OnnxFile:
    """Return the nodes and the floating tensors of a file; tensors kept outside it are not followed.

    Raises:
        WeightsError: it is no ONNX file.
    """
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf's own errors share no public root
        raise WeightsError(f"{path} is no ONNX file: {str(error)[:200]}") from error
    tensors = {
        i.name: torch.from_numpy(np.array(numpy_helper.to_array(i), dtype=np.float32))
        for i in graph.initializer
        if i.data_type == onnx.TensorProto.FLOAT and i.data_location != onnx.TensorProto.EXTERNAL
    }
    nodes = tuple(Node(n.op_type, tuple(n.input), n.output[0]) for n in graph.node)
    return OnnxFile(path, nodes, tensors)


def fill(network: torch.nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load a complete state dict.

    Raises:
        WeightsError: a tensor is missing, unknown or of another shape.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit the network: {' '.join(str(error).split())}") from error
