"""Let torchvision import beside a torch build that its compiled extension cannot load against.

The registry's torchvision links CUDA libraries. Beside a CPU-only torch its extension does not load, which torchvision
tolerates, but its Python half then registers fake kernels for two operators that no library has declared, and that
raises. Declaring the two names is enough: transforms work, the compiled operators stay unavailable and say so.

Everything that needs open_clip, timm or torchvision calls ``ensure_torchvision_importable`` before the import.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_OPS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_lock = threading.Lock()
_libraries: list[torch.library.Library] = []  # a declaration lives as long as its Library object


def ensure_torchvision_importable() -> bool:
    """Declare the operators that torchvision's Python half registers fakes for, if its extension cannot load.

    Idempotent and safe to call from several threads.

    Returns:
        True when torchvision's compiled operators are usable.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    with _lock:
        if "torchvision" in sys.modules:
            return bool(sys.modules["torchvision"].extension._has_ops())
        return _load_extension() or _declare_names()


def _load_extension() -> bool:
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("torchvision is not installed", name="torchvision")
    root = Path(next(iter(spec.submodule_search_locations)))
    for extension in sorted((*root.glob("_C*.so"), *root.glob("_C*.pyd"), *root.glob("_C*.dylib"))):
        try:
            torch.ops.load_library(str(extension))
        except (ImportError, OSError):
            continue
        return True
    return False


def _declare_names() -> bool:
    import torch

    if not _libraries:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for op in _OPS:
            library.define(op + _SCHEMA)
        _libraries.append(library)
    return False
