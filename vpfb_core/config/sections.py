"""The sections of a configuration, whose settings are declared here once with limits and help."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import fields as fields_of

from vpfb_core import names
from vpfb_core.settings import LARGEST_SEED, Settings, setting


@dataclass(frozen=True)
class DataSettings(Settings):
    """Which data are used, and how they are read."""

    source: str = setting("", help="Name of a data set, a folder or a file.", flat="data")
    size: int | None = setting(None, help="Side of the images in pixels.", low=4, high=1024)
    channels: int | None = setting(None, help="1 for grey, 3 for colour.", choices=(1, 3))
    conditional: bool = setting(False, help="Train with classes.")
    columns: tuple[str, ...] | None = setting(None, help="Columns of a table that are learned.")
    label: str | None = setting(None, help="Column of a table with the classes.")
    augment: str = setting("auto", help="Random mirroring of images.", choices=("auto", "none", "flip"))
    val_fraction: float = setting(0.1, help="Share of the data that is kept for validation.", low=0, high=0.9)
    data_root: str | None = setting(None, help="Folder of the data sets that are known by name.", operational=True)
    download: bool = setting(True, help="Download a data set that is absent.", operational=True)


@dataclass(frozen=True)
class OptimiserSettings(Settings):
    """The length of the run, and how the weights are updated."""

    steps: int | None = setting(None, help="Number of training steps.", low=1, high=1e12)
    time_budget: float | None = setting(None, help="Length of the run in seconds.", low=1, high=1e9)
    batch_size: int | None = setting(None, help="Data per step, over all processes.", low=1, high=1e6)
    algorithm: str | None = setting(None, help="How gradients change the weights.", choices=("adam", "muon"))
    lr: float | None = setting(None, help="Learning rate.", low=1e-12, high=10)
    warmup: int | None = setting(None, help="Steps over which the learning rate rises.", low=0, high=1e9)
    decay: float | None = setting(None, help="Share of the run over which the learning rate falls to 0.", low=0, high=1)
    keep_best: bool | None = setting(
        None, help="Keep the weights with the lowest validation figure in place of the last ones."
    )
    clip: float = setting(1.0, help="Largest norm of the gradient.", low=1e-9, high=1e9)
    ema: float = setting(
        0.05, help="Width of the average of the weights, relative to the length of the run.", low=1e-3, high=0.25
    )


@dataclass(frozen=True)
class MachineSettings(Settings):
    """Where and how the run is computed: devices, threads and precision."""

    device: str = setting("auto", help="auto, cpu, cuda, cuda:N or mps.", operational=True)
    threads: int | None = setting(None, help="Number of CPU threads.", low=1, high=4096, operational=True)
    workers: int | None = setting(
        None, help="Number of threads that decode images.", low=0, high=4096, operational=True
    )
    precision: str | None = setting(None, help="Precision of the network in training.", choices=("fp32", "bf16"))
    compile: str = setting("auto", help="Compile the training step.", choices=("auto", "on", "off"), operational=True)
    deterministic: bool = setting(
        False, help="Use deterministic algorithms on CUDA, which may be slower.", operational=True
    )
    micro_batch: int | None = setting(
        None, help="Data that a process differentiates at once; the gradient is that of the whole batch.",
        low=1, high=1e6, operational=True,
    )  # fmt: skip


@dataclass(frozen=True)
class RunSettings(Settings):
    """The preset, the seed, and what the run saves."""

    preset: str | None = setting(None, help="Size of the network and length of the run.", choices=names.PRESETS)
    seed: int = setting(0, help="Fixes every random number.", low=0, high=LARGEST_SEED)
    init: str | None = setting(None, help="Model whose weights the run starts from.")
    match: tuple[str, ...] | None = setting(
        None, help="Statistics whose means over the data samples are given at the end of the run."
    )
    out: str | None = setting(None, help="The run folder.", operational=True)
    resume: str = setting("never", help="auto, never, or the folder of a run to continue.", operational=True)
    log_every: int | None = setting(None, help="Steps between lines of the log.", low=1, high=1e9, operational=True)
    save_every: int | None = setting(None, help="Steps between saves.", low=1, high=1e9, operational=True)
    sample_every: int | None = setting(
        None, help="Steps between sample grids and validations.", low=1, high=1e9, operational=True
    )
    log: str = setting(
        "csv", help="Files of the log: log.csv, or also TensorBoard events.", choices=("csv", "tensorboard"),
        operational=True,
    )  # fmt: skip
    keep: int = setting(1, help="Number of earlier saved states that are kept.", low=0, high=1000, operational=True)
    on_nonfinite: str = setting(
        "stop", help="Action after a loss or gradient that is not finite.", choices=("stop", "rollback"),
        operational=True,
    )  # fmt: skip


SECTIONS: dict[str, type[Settings]] = {
    "data": DataSettings,
    "optimiser": OptimiserSettings,
    "machine": MachineSettings,
    "run": RunSettings,
}
PARTS = ("network", "method")  # sections whose settings depend on the name in them
ORDER = ("data", "network", "method", "optimiser", "machine", "run")

# The settings that are words, by bare name and by path.
WORDS = frozenset(PARTS) | frozenset(
    name
    for section, kind in SECTIONS.items()
    for field in fields_of(kind)
    if field.type in ("str", "str | None")
    for name in (field.metadata["flat"] or field.name, f"{section}.{field.name}")
)

# Settings that say where and how a run is computed and saved, not what it computes. They may change on resuming.
OPERATIONAL = frozenset(
    f"{section}.{field.name}"
    for section, kind in SECTIONS.items()
    for field in fields_of(kind)
    if field.metadata["operational"]
)
