"""The preprocessing job: raw videos to shards, in four stages.

`plan` finds and probes the sources and decides which chunks to process, `process` runs them on Ray,
`finalize` writes the data set from all chunk outputs, and `report` describes it. Each stage takes
the result of the one before. Everything the job knows lies in the output folder, so running the
same command again resumes.
"""
