"""What a search costs: autotransfer against plain Ray Tune, random search, a grid and one plain fine-tune.

``python -m benchmarks.economy`` from the root of a clone. The method is told in ``benchmarks/README.md``.
"""
