"""torchvision, timm and open_clip import beside this torch, whatever torchvision's compiled part says."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import threading
from roclip_audit.core.torchvision_compat import ensure_torchvision_importable
answers = []
threads = [threading.Thread(target=lambda: answers.append(ensure_torchvision_importable())) for _ in range(4)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
import torchvision, timm, open_clip
answers += [ensure_torchvision_importable(), torchvision.extension._has_ops()]
assert len(set(answers)) == 1, answers
import torch
boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
try:
    kept = torchvision.ops.nms(boxes, torch.ones(1), 0.5).tolist()
except RuntimeError as error:
    kept = str(error)
print(answers[0], "works" if kept == [0] else "says so" if "torchvision" in kept or "nms" in kept else kept)
"""


def test_everything_imports_and_missing_operators_say_so() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1) in (["True", "works\n"], ["False", "says so\n"])
