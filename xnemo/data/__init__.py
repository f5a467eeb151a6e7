"""From shards and their index to training batches.

`select` picks clips by a filter expression, `SampleOrder` says which clip is sample number n of a
run, `SampleReader` cuts and augments its pictures, `BatchLoader` does so ahead of time. Sample n
is a pure function of (seed, n): that is what makes a run stoppable anywhere.
"""
