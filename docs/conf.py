"""The site: Sphinx, MyST, furo, sphinx-gallery. ``make docs`` builds it; reading it needs no network."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from sitekit import api, measured  # noqa: E402 (needs the path)

import eigengrad  # noqa: E402

project = "eigengrad"
author = "The eigengrad developers"
project_copyright = author
version = release = eigengrad.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "sitekit.gallery",
    "sitekit.mathml",
    "sitekit.repository",
    "sitekit.signatures",
]
exclude_patterns = ["_build", "_static", "_templates", "sitekit", "gallery/**/*.ipynb"]
exclude_patterns += ["sg_execution_times.rst", "gallery/sg_execution_times.rst", "gallery/*/sg_execution_times.rst"]
templates_path = ["_templates"]
suppress_warnings = ["config.cache"]
smartquotes_action = "D"  # dashes alone: an error's text is found as it was pasted

# Pages that are made here and now: every public name, and what was measured.
api.write(ROOT / "docs" / "_generated")
measured.write(ROOT / "results", ROOT / "docs" / "_generated")

myst_enable_extensions = ["dollarmath", "deflist", "attrs_inline"]
myst_heading_anchors = 3
myst_url_schemes = {
    "http": None,
    "https": None,
    "mailto": None,
    "gh": "https://github.com/{{path}}/issues/{{fragment}}",  # [pytorch#1](gh:pytorch/pytorch#1); pull requests too
}

autosummary_generate = True
autodoc_typehints = "none"  # signatures have them
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_use_rtype = False

napoleon_custom_sections = ["Shape", "Source"]

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "ignore_pattern": "|".join(rf"^{path.stem}\.py$" for path in (ROOT / "examples").glob("*.py")),  # no picture
    "download_all_examples": False,
    "show_memory": False,
    "remove_config_comments": True,
    "plot_gallery": "True",
    "abort_on_example_error": True,
    "subsection_order": api.GALLERY_ORDER,
    "within_subsection_order": "FileNameSortKey",
    "backreferences_dir": None,
    "min_reported_time": 5,
    "reset_modules": ("matplotlib",),
    "image_scrapers": ("matplotlib",),
    "image_srcset": ["2x"],
    "thumbnail_size": (480, 360),
    "matplotlib_animations": False,
    "capture_repr": (),
}

html_theme = "furo"
html_title = "eigengrad"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5e55", "color-brand-content": "#0b5e55"},
    "dark_css_variables": {"color-brand-primary": "#5cc8b8", "color-brand-content": "#5cc8b8"},
}
