"""One thread a process: the networks of the tests are too small for more, and busy machines make threads wait."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
