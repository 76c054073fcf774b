"""Hooks of MkDocs: pages from README files and docstrings, and links from a page to a file of the repository."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[([^\[\]]*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")
TITLES = {
    "inference": "Predict, export, share",
    "decoders": "Decoders",
    "aligners": "Aligners",
    "lmm": "LMM adapter",
    "data": "Data",
    "metrics": "Metrics",
    "engine": "Training",
    "tuning": "Training on a folder of pictures",
    "recipes": "Recipes",
    "ops": "Functions on tensors",
    "serialization": "Files",
    "serving": "Server",
    "visualization": "Pictures",
    "interop": "Other libraries",
    "commands": "Commands",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the reference at the end of the navigation."""
    config.nav.append({"API reference": ["api/index.md", *(f"api/{part}.md" for part in TITLES)]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README files, as ``index.md`` and ``projects/NAME.md``, and one page of the reference for each package."""
    pages = {page_of(path.relative_to(ROOT).as_posix()): path.read_text(encoding="utf-8") for path in readme_files()}
    pages |= {f"api/{part}.md": package_page(part, title) for part, title in TITLES.items()}
    pages["api/index.md"] = reference("The core", sorted((ROOT / "lumen").glob("[!_]*.py")))
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to pages, or to the repository, or into plain words."""
    return rewrite_links(markdown, source_of(page.file.src_uri), config.repo_url or "")


def readme_files() -> list[Path]:
    """Return the README files that become pages."""
    return [ROOT / "README.md", *sorted((ROOT / "projects").glob("*/README.md"))]


def page_of(source: str) -> str | None:
    """Return the page that shows a file of the repository, if one does."""
    if source == "README.md":
        return "index.md"
    if re.fullmatch(r"projects/\w+/README\.md", source):
        return f"{posixpath.dirname(source)}.md"
    return source.removeprefix("docs/") if source.startswith("docs/") else None


def source_of(uri: str) -> str:
    """Return the file of the repository that a page shows."""
    if uri == "index.md":
        return "README.md"
    return re.sub(r"\.md$", "/README.md", uri) if uri.startswith("projects/") else f"docs/{uri}"


def rewrite_links(markdown: str, source: str, repo_url: str) -> str:
    """Rewrite the relative links of a file, outside its blocks of code.

    Args:
        markdown: Its text.
        source: Its path in the repository.
        repo_url: Address of the repository; without one, links to files that no page shows become plain words. Links
            to what does not exist stay, so that a strict build reports them.
    """

    def rewrite(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2]))
        page = page_of(target)
        if page is not None:
            place = posixpath.relpath(page, posixpath.dirname(page_of(source) or "") or ".")
            return f"[{link[1]}]({place}{link[3] or ''})"
        if not (ROOT / target).exists():
            return link[0]
        return f"[{link[1]}]({repo_url.rstrip('/')}/blob/main/{target})" if repo_url else link[1]

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(rewrite, part) for part in parts)


def package_page(part: str, title: str) -> str:
    """Return the page of the reference about a package."""
    return reference(title, sorted((ROOT / "lumen" / part).rglob("[!_]*.py")))


def reference(title: str, modules: list[Path]) -> str:
    """Return a page of the reference; mkdocstrings fills it."""
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules]
    return f"# {title}\n\n" + "".join(f"::: {name}\n\n" for name in names)
