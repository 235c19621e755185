"""How Sphinx builds these pages: ``tox -e docs``."""

from dataverse_sync import __version__

project = "dataverse_sync"
version = release = __version__
extensions = ["myst_parser"]
exclude_patterns = ["examples"]
myst_heading_anchors = 3
html_theme = "alabaster"
html_theme_options = {"description": "Dataverse in SQLite", "fixed_sidebar": True}
html_show_copyright = False
html_show_sourcelink = False
