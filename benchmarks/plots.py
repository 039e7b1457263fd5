"""The plots in the reports: SVG without a date, so that the same numbers produce the same file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "sendq"

from matplotlib import pyplot as plt  # noqa: E402  # the backend is chosen first


def cumulative(path: Path, waits: Mapping[str, Mapping[str, Sequence[float]]], unit: str) -> None:
    """One panel per entry, with a cumulative distribution of the waits for each series."""
    figure, panels = plt.subplots(1, len(waits), figsize=(5 * len(waits), 3.2), squeeze=False)
    for panel, (name, series) in zip(panels[0], waits.items(), strict=True):
        for label, values in series.items():
            ordered = sorted(values)
            shares = [(place + 1) / len(ordered) for place in range(len(ordered))]
            panel.plot([max(value, 1e-4) for value in ordered], shares, label=label)
        panel.set_xscale("log")
        panel.set_title(name)
        panel.set_xlabel(unit)
        panel.set_ylabel("share of jobs")
        panel.grid(visible=True, alpha=0.3)
        panel.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
