"""What is known: frozen records of arrays, leading axes `[N]` environments or `[N, S]` slots.

Role: the vocabulary of the whole system. Records hold no behaviour beyond construction and row selection.
Neighbours: `rules` says what may happen to them, `phases` moves them through an epoch.
"""
