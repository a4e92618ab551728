"""The uses of a trained model: sampling, chains, densities, scores, composition, evaluation and calibration."""
