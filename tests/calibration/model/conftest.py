"""Without a GPU, Triton kernels run in Triton's interpreter, which must be chosen before they are imported."""

import os

try:
    import torch
except ImportError:
    GPU = False
else:
    GPU = torch.cuda.is_available()

if not GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")
