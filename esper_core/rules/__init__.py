"""What may happen: pure, vectorised functions of records.

Role: no loop over environments, no I/O, no clock, no global random state.
Neighbours: reads and returns `state` records; `phases` calls it.
"""
