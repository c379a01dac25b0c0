"""Settings of the documentation site; ``scripts/build_docs.sh`` builds it.

The source folder is the repository, so that the READMEs are pages as they are and links between Markdown files work
on the site and on GitHub alike. Nothing is fetched, and the pages ask for nothing from the network.
"""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
# This checkout is documented, whatever is installed.
sys.path[:0] = [str(REPOSITORY / folder) for folder in ("projects", ".", "docs/extensions")]

import partbox  # noqa: E402

project = "partbox"
version = release = partbox.__version__
copyright = "the contributors, Apache-2.0"
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "config_keys",
    "module_texts",
    "notebook_pages",
    "public_names",
    "python_references",
    "remaining_pages",
    "repository_links",
]

# --- pages ------------------------------------------------------------------------------------------------------------

root_doc = "docs/index"
PAGES = ["README.md", "CONTRIBUTING.md", "docs/*.md", "docs/tour.ipynb", "docs/api/*.md"]
PAGES += [f"{folder}/README.md" for folder in ("datasets", "maskdino_ext", "requirements")]
source_suffix = {".md": "markdown"}
include_patterns = PAGES
# Folders without pages are not walked: environments, datasets and runs may lie in the checkout.
_WITH_PAGES = {page.split("/")[0] for page in PAGES}
exclude_patterns = [one.name for one in REPOSITORY.iterdir() if one.name not in _WITH_PAGES]
exclude_patterns += [f"{one}/**" for one in ("datasets/*", "maskdino_ext/*", "requirements/*", "docs/images")]

# --- Markdown ---------------------------------------------------------------------------------------------------------

myst_heading_anchors = 4  # with the names that GitHub gives
myst_links_external_new_tab = False
smartquotes = False

# --- docstrings -------------------------------------------------------------------------------------------------------

public_modules = ["partbox", "maskdino_ext"]
public_modules += [f"partbox.{one}" for one in ("attacks", "corruptions", "data", "evaluation", "export", "report")]
autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # a method without a text means what its base class says
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # "Attributes:" of dataclasses, whose fields autodoc would document once more
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
nitpicky = True

# --- HTML -------------------------------------------------------------------------------------------------------------

html_theme = "furo"
html_title = "partbox"
templates_path = ["templates"]
html_additional_pages = {"index": "start.html"}  # the folder's own index.html leads to the first page
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"top_of_page_buttons": []}
