"""Whether torch.compile works on this machine: it needs a C++ compiler with Python's headers, and Triton for a GPU."""

from __future__ import annotations

import logging

import torch


def compiler_fault(device: torch.device) -> str | None:
    """Why torch.compile does not work for a device, in one line; None if it does.

    It compiles a function of one operation, since only that shows whether all of the tools are there. This takes about
    five seconds, most of which are spent on loading the compiler.
    """
    # The logger that says on every machine without a GPU, in the terminal, that the toolkit of CUDA finds none.
    toolkit = logging.getLogger("torch.utils.cpp_extension")
    before = toolkit.level
    toolkit.setLevel(logging.ERROR)
    try:
        torch.compile(torch.sin, dynamic=False)(torch.zeros(1, device=device))
    except Exception as error:  # its classes are private to torch, and differ by what is missing
        return str(error).strip().splitlines()[0] or type(error).__name__
    finally:
        toolkit.setLevel(before)
    return None
