"""Loop settings that the strategies share."""

from __future__ import annotations

from autotransfer.plugin import Profile, Training


def batch_size(rows: int) -> int:
    """Return a power of two near rows / 20, from 8 to 64: small data need many steps more than large batches."""
    size = 8
    while size < 64 and size * 2 <= rows / 20:
        size *= 2
    return size


def fine_tuning(profile: Profile) -> Training:
    """Return the settings of a training that moves the backbone.

    Smoothed labels help accuracy where classes are many (Mueller et al. 2019, When does label smoothing help?); two
    classes gain nothing, and log-loss is the worse for chances that are drawn to the middle.
    """
    smooth = 0.1 if profile.task == "multiclass" and profile.metric != "log_loss" else 0.0
    return Training(batch_size=batch_size(profile.train), weight_decay=0.01, label_smoothing=smooth)
