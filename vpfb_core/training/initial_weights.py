"""The weights of another model, from which a run begins (`--init`)."""

from __future__ import annotations

from torch import Tensor

from vpfb_core.errors import CheckpointError
from vpfb_core.methods.fields import Field
from vpfb_core.model import model_file
from vpfb_core.model.trained import TrainedModel


def weights_for(field: Field, name: str, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a model for a field, by name, without optional ones that either of both lacks.

    Args:
        field: the field of the run, of which only the shapes of its tensors are used.
        name: a model file, a run folder, or the name of a built-in model.
        device: the device of the tensors.
    Raises:
        CheckpointError: there is no such model, or its weights do not fit. The message names the first difference.
    """
    given, wanted = model_file.load(TrainedModel, name, device=device).field.state_dict(), field.state_dict()
    for tensor in sorted(given.keys() | wanted.keys()):
        if (tensor not in given or tensor not in wanted) and tensor.startswith(field.optional):
            given.pop(tensor, None)
            continue
        if tensor not in given or tensor not in wanted:
            owner, other = (name, "this run") if tensor in given else ("this run", name)
            reason = f"{owner} has a tensor {tensor!r}, which {other} lacks"
        elif given[tensor].shape != wanted[tensor].shape:
            reason = f"{tensor!r} has shape {tuple(given[tensor].shape)}, not {tuple(wanted[tensor].shape)}"
        else:
            continue
        raise CheckpointError(
            f"the weights of {name} do not fit this run: {reason}",
            hint="use the network, size and classes of that model: vpfb info MODEL shows them",
        )
    return given
