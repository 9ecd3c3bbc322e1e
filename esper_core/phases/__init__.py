"""The phases of a round, one file each, in the order in which they run: collect, validate, reward.

Role: functions of records; each can be tested alone.
Neighbours: `rules` below, `runner.loop` above.
"""
