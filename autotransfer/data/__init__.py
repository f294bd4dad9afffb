"""Labelled rows: reading, checking, splitting, profiling and preparing them. Lazy: rows are decoded when asked for."""

from autotransfer.data.prepare import Prepared, prepare

__all__ = ["Prepared", "prepare"]
