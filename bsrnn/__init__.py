"""Refined BSRNN: band-split RNN music source separation with a generic band schema, multi-task learning and transfer.

    Separator     a song to its stems, in memory or from file to files (separate.py)
    BSRNN         the network: mixture spectrogram in, one estimate per source out (model.py)
    Config        what defines a model (config.py)
    band_schema   where a spectrogram is cut along frequency, by name (bands.py)

A song goes through audio.py and containers.py (decode, resample, levels), separate.py (chunks), spectral.py (STFT),
model.py and packed.py (the network), and back; pretrained.py fetches published models by name. A training goes through
data.py (songs, samples; demo.py generates some), losses.py, metrics.py and train.py; checkpoint.py saves and loads what
it leaves, and evaluate.py scores it. devices.py says where and how precisely to compute, files.py writes files whole or
not at all, and cli.py is the command line.
"""

import importlib
from importlib.metadata import distributions
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bsrnn.bands import band_schema
    from bsrnn.config import Config
    from bsrnn.model import BSRNN
    from bsrnn.separate import Separator

_MODULES = {"Separator": "separate", "BSRNN": "model", "Config": "config", "band_schema": "bands"}
__version__ = next((found.version for found in distributions(name="bsrnn")), None)  # None where it is not installed
__all__ = ["BSRNN", "Config", "Separator", "band_schema"]


def __getattr__(name: str):  # torch is loaded when it is needed, so that the command line answers at once
    if name not in _MODULES:
        raise AttributeError(f"module 'bsrnn' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bsrnn.{_MODULES[name]}"), name)
