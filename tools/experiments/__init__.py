"""Tables of RESULTS.md: what to train, what came out, and the tables themselves.

arms.py     a table = arms x rates x seeds -> cells (`cdinfer.studies.cells`)
mirror.py   the pictures of a set, as it decodes them or as WebP of the same bytes
budget.py   what a trained network cost
keep.py     records of a run's folder -> tools/records/TABLE-PRESET.json, which is committed
summary.py  records -> means, deviations, paired differences
results.py  tools/records -> the blocks of RESULTS.md between its markers
"""
