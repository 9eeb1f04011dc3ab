"""The laboratory: reproduces the tables and figures of Wang et al., *Backpropagation-Friendly Eigendecomposition*.

Reading order: config (one training, as a value), parts (the user's own, by import path), methods (the rows of tables),
recipes (the paper's tables and figures as values), data, models, training, runs (records, and many trainings), report,
cli. Nothing heavy is imported here, so that ``eigengrad --help``
answers at once.
"""
