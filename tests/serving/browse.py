"""Uses the page in headless Chromium, as a person would; run as a process of its own, since Qt wants its main thread.

Prints what the page shows as JSON, and writes pictures of it.

    QT_QPA_PLATFORM=offscreen python tests/serving/browse.py URL PICTURE FOLDER
"""

import base64
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("QTWEBENGINE_CHROMIUM_FLAGS", "--no-sandbox --disable-gpu")

from PyQt6.QtCore import QEventLoop, QUrl
from PyQt6.QtWebEngineCore import QWebEnginePage
from PyQt6.QtWebEngineWidgets import QWebEngineView
from PyQt6.QtWidgets import QApplication

DROP = """(() => {
  const bytes = Uint8Array.from(atob("%s"), (letter) => letter.charCodeAt(0)), carried = new DataTransfer();
  carried.items.add(new File([bytes], "%s"));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: carried, cancelable: true }));
})()"""
TABLE = "[...document.querySelectorAll('#found tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"
PIXELS = """(() => {
  const canvas = document.getElementById("canvas");
  return canvas.width + "x" + canvas.height + " " + canvas.toDataURL().length;
})()"""


class Page(QWebEnginePage):
    """A page that keeps what its scripts complain about."""

    def __init__(self):
        super().__init__()
        self.complaints = []

    def javaScriptConsoleMessage(self, level, message, line, source):  # noqa: N802 - Qt's name
        self.complaints.append(f"{source}:{line}: {message}")


def main(url, picture, folder):
    app = QApplication(sys.argv[:1])
    page, view = Page(), QWebEngineView()
    view.setPage(page)
    view.resize(1100, 800)
    view.show()

    def run(script):
        found, loop = [], QEventLoop()
        page.runJavaScript(script, lambda value: (found.append(value), loop.quit()))
        loop.exec()
        return found[0]

    def wait(script, seconds=60):
        end = time.monotonic() + seconds
        while not run(script):
            if time.monotonic() > end:
                raise SystemExit(f"not within {seconds} s: {script}; error: {text('error')}; {page.complaints}")
            app.processEvents()
            time.sleep(0.02)

    def text(name):
        return run(f"document.getElementById('{name}').textContent")

    def find():
        run("document.getElementById('time').textContent = ''; document.getElementById('ask').click()")
        wait(
            "document.getElementById('time').textContent !== '' || document.getElementById('error').textContent !== ''"
        )
        wait("!document.getElementById('ask').disabled")

    def shot(name):
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            app.processEvents()
        view.grab().save(str(Path(folder) / name))

    seen = {}
    page.load(QUrl(url))
    wait("typeof info !== 'undefined' && !!info.tasks")
    run("document.getElementById('ask').click()")
    seen["without a picture"] = text("error")
    run(DROP % (base64.b64encode(b"no picture").decode(), "notes.txt"))
    wait("document.getElementById('error').textContent.includes('notes.txt')")
    run(DROP % (base64.b64encode(Path(picture).read_bytes()).decode(), "photo.png"))
    wait("!document.getElementById('canvas').hidden")
    seen["bare"] = run(PIXELS)
    run("document.getElementById('phrases').value = 'star, circle'; document.getElementById('threshold').value = 0")
    find()
    seen["first"], seen["found"] = text("time"), run(TABLE)
    seen["boxes"] = run(PIXELS)
    shot("boxes.png")
    run("document.getElementById('heat').checked = true; document.getElementById('time').textContent = ''")
    run("document.getElementById('heat').onchange()")
    wait("document.getElementById('time').textContent !== '' && !document.getElementById('ask').disabled")
    seen["again"], seen["heatmaps"] = text("time"), run(PIXELS)
    shot("heatmaps.png")
    run("document.querySelector('#found tr').click()")
    seen["one phrase"] = run(PIXELS)
    for task in run("info.tasks.filter((task) => ['segmentation', 'counting'].includes(task))"):
        run(f"document.getElementById('task').value = '{task}'; document.getElementById('heat').checked = false")
        find()
        seen[task] = run(TABLE)
        shot(f"{task}.png")
    if run("info.text_tasks.includes('vqa')"):
        run("document.getElementById('question').value = 'what is it?'; document.getElementById('say').click()")
        wait("document.querySelectorAll('#talk p').length === 2")
        seen["words"] = run("[...document.querySelectorAll('#talk p')].map((line) => line.textContent)")
        shot("words.png")
    seen["error"], seen["complaints"] = text("error"), page.complaints
    seen["hosts"] = run("[...new Set(performance.getEntriesByType('resource').map((one) => new URL(one.name).host))]")
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
