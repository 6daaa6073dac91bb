"""The copy handler: makes a local directory equal to the source, without any other program.

`handler` answers for batches; it hands `units` of work to an `engine`, in a thread (`local`) or in child processes
(`pool`, `worker`). The engine works directory by directory (`trees`, `listed`, `links`), each a `place`.
"""
