"""Runs on disk and at work: records and checkpoints, one run from configuration to result, many runs by an engine.

Reading order: files, environment, records, checkpoints, reporting, signals, execution, engines, status,
export.
"""
