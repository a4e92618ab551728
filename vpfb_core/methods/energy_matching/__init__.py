"""Energy Matching (Balcerak et al. 2025, arXiv 2504.10612): one energy of clean data that does not depend on time."""
