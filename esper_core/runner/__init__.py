"""The shell around the pure core: configuration, loop, checkpoints, run folder, report.

Role: everything that reads files, keeps time or holds state between epochs.
Neighbours: `phases` and `rules` do the thinking, `cli` is a skin over what is here.
"""
