"""Ultrasound localization microscopy: the reproducible companion of 3DML-ResNet (EUSIPCO 2024).

Modules load on first use, so ``import ulmpaper`` is quick and loads neither torch nor matplotlib:

>>> import ulmpaper
>>> cfg = ulmpaper.config.load_config("smoke")
>>> cfg.render.upsample
10
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"
__all__ = [
    "array",
    "bank",
    "chain",
    "checked",
    "clutter",
    "config",
    "costs",
    "coverage",
    "crb",
    "datasets",
    "decode",
    "diskfile",
    "domain",
    "evaluate",
    "example",
    "export",
    "figure1",
    "figure2",
    "figure3",
    "figure5",
    "figures",
    "filters",
    "flow",
    "generate",
    "infer",
    "insilico",
    "judge",
    "kernels",
    "localize",
    "loss",
    "metrics",
    "model",
    "parallel",
    "phantom",
    "pipeline",
    "player",
    "predict",
    "processes",
    "psf",
    "quality",
    "recipes",
    "records",
    "registry",
    "render",
    "results",
    "runs",
    "scenes",
    "scoring",
    "segment",
    "settings",
    "simulate",
    "storage",
    "subpixel",
    "synthesis",
    "tables",
    "targets",
    "track",
    "train",
    "tubes",
    "vessels",
    "ways",
    "weights",
    "windows",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; modules: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
