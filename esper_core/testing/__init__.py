"""What makes a plugin trustworthy: conformance checks and hypothesis strategies, public.

Role: our own tests and those of plugin authors use the same ones.
Neighbours: above every other room of `esper_core`; nothing imports it but tests. Needs the extra `test`.
"""
