"""The command line of vpfb: options, progress, words and exit codes; no mathematics."""
