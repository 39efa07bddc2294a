"""Hooks of MkDocs: tutorials become executed notebooks, and linked source files become pages."""

import concurrent.futures
import logging
import os
import posixpath
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from mkdocs.structure.files import File
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
LOG = logging.getLogger("mkdocs.hooks")  # a warning here fails a strict build
LINK = re.compile(r"(?<!!)\[([^]]*)\]\(((?:\.\./)+[^)#\s]*)(#[^)]*)?\)")
FETCHED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"https?://[^>]*")
REMARKS = re.compile(r"^INFO:tensorflow:.*\n", re.MULTILINE)

notebooks = {}
executes = True


def on_startup(command, dirty):
    """While someone edits, `mkdocs serve` shows the tutorials without their outputs."""
    global executes
    executes = command != "serve"


def on_files(files, config):
    """Add a notebook of each tutorial, and a page of each source file that a page links to."""
    pages = list(files.documentation_pages())
    tutorials = [file for file in pages if file.src_uri.startswith("tutorials/")]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for file, notebook in zip(tutorials, pool.map(_notebook, tutorials), strict=True):
            notebooks[file.src_uri] = notebook
            name = file.src_uri.removesuffix(".md") + ".ipynb"
            files.append(File.generated(config, name, content=nbformat.writes(notebook)))
    links = (path for file in pages for *_, path in _links_out(file.content_string, file))
    for path in sorted(filter(_is_shown, set(links))):
        code = (ROOT / path).read_text(encoding="utf-8")
        page = f"---\nsearch:\n  exclude: true\n---\n# {path}\n\n``````python\n{code}``````\n"
        files.append(File.generated(config, f"source/{path}.md", content=page))
    return files


def on_page_markdown(markdown, page, config, files):
    """Show what the code of a tutorial prints, and point links out of docs/ into the site."""
    file = page.file
    if file.src_uri in notebooks:
        markdown = _with_outputs(notebooks[file.src_uri], file.src_uri)
    for link, label, path in _links_out(markdown, file):
        if not (ROOT / path).exists():
            LOG.warning("%s links to %s, which is not there", file.src_uri, path)
        target = posixpath.relpath(f"source/{path}.md", posixpath.dirname(file.src_uri))
        markdown = markdown.replace(link, f"[{label}]({target})" if _is_shown(path) else label)
    return markdown


def on_post_page(output, page, config):
    """Refuse what a browser would fetch from another host."""
    for tag in FETCHED.findall(output):
        if 'rel="canonical"' not in tag:
            LOG.warning("%s loads from another host: %s", page.file.src_uri, tag)
    return output


def _links_out(text, file):
    """(link, label, path in the repository) of each link to a file outside of docs/."""
    found = []
    for link in LINK.finditer(text):
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(file.src_uri), link[2]))
        if path.startswith("docs/") or path == "docs":
            continue
        found.append((link[0], link[1], path))
    return found


def _is_shown(path):
    """Whether the site has a page of this file of the repository."""
    return path.endswith(".py") and (ROOT / path).is_file()


def _notebook(file):
    """The notebook of a page, executed in a folder of its own."""
    notebook = jupytext.reads(file.content_string, "md")
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    if not executes:
        return notebook
    LOG.info("Executing %s", file.src_uri)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}})
        client.execute(env={**os.environ, **_environment()}, stderr=subprocess.DEVNULL)
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times, which no two builds share
            if cell.cell_type == "code":
                cell.outputs = _cleaned(cell.outputs, folder)
    return notebook


def _environment():
    commands = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {
        "PATH": commands,  # where `zoo` is
        "TTY_COMPATIBLE": "0",  # a notebook's kernel asks commands for colours and progress bars
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "1",
    }


def _cleaned(outputs, folder):
    """One text where a cell printed several, without TensorFlow's remarks and the folder's name."""
    kept = []
    for output in outputs:
        if output.output_type != "stream":
            kept.append(output)
        elif output.name == "stdout" and kept and kept[-1].output_type == "stream":
            kept[-1].text += output.text
        elif output.name == "stdout":
            kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            output.text = REMARKS.sub("", output.text).replace(f"{folder}/", "")
    return kept


def _with_outputs(notebook, source):
    """The Markdown of a page, with what each of its blocks printed and drew."""
    name = posixpath.basename(source).removesuffix(".md")
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        shell, code = cell.source.startswith("%%sh\n"), cell.source.removeprefix("%%sh\n")
        parts.append(f"```{'sh' if shell else 'python'}\n{code}\n```")
        parts += filter(None, (_shown(output) for output in cell.outputs))
    title, rest = parts[0].split("\n", 1)
    download = f"[Download this page as a notebook]({name}.ipynb){{ .notebook download }}"
    return "\n\n".join([title, download, rest, *parts[1:]])


def _shown(output):
    data = output.get("data", {})
    if "image/png" in data:
        png = data["image/png"].strip()
        source = f"data:image/png;base64,{png}"
        return f'<img class="output" alt="What the code above draws" src="{source}">'
    text = output.get("text", data.get("text/plain", "")).strip("\n")
    return f"``````{{ .text .output }}\n{text}\n``````" if text.strip() else None
