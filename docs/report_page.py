"""Draw docs/report.png, the chips and the timeline of an HTML report, with Chromium.

uv run has8-map examples/models/cifar10.pt --target loihi --data cifar10 --samples 100 --out . \\
    --report cifar10.html
uv run python docs/report_page.py cifar10.html
"""

from __future__ import annotations

import io
import sys
import tempfile
from base64 import b64decode
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
WIDTH, MARGIN = 1240, 12

if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent / "tests"))
    from browser import Browser

    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(Path(profile))
        browser.open(Path(sys.argv[1]).resolve(), width=WIDTH)
        browser.run("document.querySelector('header').style.position = 'static'")
        top, bottom = (
            browser.run(f"document.querySelector('{name}').getBoundingClientRect().{edge}")
            for name, edge in (("#chips", "top"), ("#time", "bottom"))
        )
        clip = {"x": 0, "y": top - MARGIN, "width": WIDTH, "height": bottom - top + 2 * MARGIN}
        shot = browser(
            "Page.captureScreenshot", clip={**clip, "scale": 1}, captureBeyondViewport=True
        )
        browser.close()
    picture = Image.open(io.BytesIO(b64decode(shot["data"]))).convert("RGB")
    picture.quantize(96).save(HERE / "report.png", optimize=True)
