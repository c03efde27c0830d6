"""Takes mkdocs's files and pages. Gives the site those pages that lie at the top of the repository, too.

Knows nothing of what is on them. `mkdocs.yml` names this file.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

TOP = Path(__file__).parents[1]
#: file at the top -> its page in the site
PAGES = {"DECISIONS.md": "decisions.md", "CHANGELOG.md": "changelog.md"}
#: A link to one of them, as it works where the repository is read.
LINK = re.compile(rf"\]\((?:\.\./)+({'|'.join(map(re.escape, PAGES))})")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(TOP / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - mkdocs's names
    """Let links to them lead to the site's own pages."""
    up = "../" * page.file.src_uri.count("/")
    return LINK.sub(lambda found: f"]({up}{PAGES[found[1]]}", markdown)
