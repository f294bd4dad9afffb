"""Word vectors as backbones: any word2vec, GloVe or fastText file as ``vectors/PATH``."""

from __future__ import annotations

from collections.abc import Mapping

from autotransfer.plugin import BackboneSpec, Scalar, hookimpl


@hookimpl
def autotransfer_find_backbone(id: str, options: Mapping[str, Scalar]) -> BackboneSpec | None:
    """Return the spec of a file of word vectors; ``options`` may hold ``most``, the words that are read.

    A saved model's ``words`` and ``width`` make the card again without the file.
    """
    namespace, _, path = id.partition("/")
    if namespace != "vectors" or not path:
        return None
    from autotransfer_vectors.find import find

    return find(path, options)
