"""From records to tables, figures and pages.

Reading order: runs, grid, claims, figures, sections, analysis, page, write.
"""
