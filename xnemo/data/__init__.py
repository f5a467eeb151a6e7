"""From shards and their index to training batches.

`select` filters clips, `SampleOrder` maps a sample number to a clip, `SampleReader` decodes, crops
and augments its frames, and `BatchLoader` prefetches batches. Sample n is a pure function of
(seed, n), so a run can stop and resume at any sample.
"""
