"""The command line of vpfb: options, progress, wording and exit codes. It contains no mathematics."""
