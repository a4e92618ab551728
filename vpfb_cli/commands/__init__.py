"""The commands, one file each. A command reads its options, calls functions of `vpfb_core` and reports the result."""
