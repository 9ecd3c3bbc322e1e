"""The growing network: hosts and slots, seeds and blends, and the grown network as a plain `nn.Module`.

Role: everything that is torch and belongs to the network itself, not to how N of them are executed.
Neighbours: above `state`; device strategies execute it, `runner.grown` writes it to disk.
"""
