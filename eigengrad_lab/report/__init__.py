"""From records to tables, figures and pages.

Reading order: runs, statistics, grid, claims, figures, sections, analysis, page, write, summary, readme.
"""
