"""The configuration of a training run, read from TOML files, key=value pairs and options.

It has the sections

    [data] [network] [method] [optimiser] [machine] [run]

The settings of [network] and [method] depend on the network and the method that are named there. A setting may be given
without its section: `lr` means `optimiser.lr`. A value that is None is chosen from the data and the machine
(`training.presets.resolve`).
"""

from vpfb_core.config.sections import OPERATIONAL, SECTIONS, DataSettings, MachineSettings, RunSettings
from vpfb_core.config.setting_paths import known_names, located, merge_levels
from vpfb_core.config.toml_files import as_json, parse_duration, parse_setting, read_file, to_toml
from vpfb_core.config.train_config import TrainConfig

__all__ = [
    "OPERATIONAL",
    "SECTIONS",
    "DataSettings",
    "MachineSettings",
    "RunSettings",
    "TrainConfig",
    "as_json",
    "known_names",
    "located",
    "merge_levels",
    "parse_duration",
    "parse_setting",
    "read_file",
    "to_toml",
]
