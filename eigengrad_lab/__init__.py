"""The laboratory: reproduces the tables and figures of Wang et al., *Backpropagation-Friendly Eigendecomposition*.

Reading order: config (one training, as a value), recipes (the paper's tables as lists of trainings), data, models,
train, records, engine, report. Nothing heavy is imported here, so that ``eigengrad --help`` answers at once.
"""
