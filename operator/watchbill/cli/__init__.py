"""The command line: one file per group of commands, and the composition root.

Modules here import little when they are imported, so that `--help` is quick; what a command needs, it imports when it
runs. Results go to stdout and everything else to stderr.
"""
