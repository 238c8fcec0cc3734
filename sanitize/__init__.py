"""The offline stage: index, encode, align, contest, evidence, suspicion, curate."""
