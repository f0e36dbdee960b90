"""Pictures of the demo page with a result, at two widths, light and dark.

    python test/demo_images.py SOUND DIR PACK [PACK ...]

writes DIR/demo-WIDTH-light.png and -dark.png of the page that `llmvq demo PACK ...` shows for SOUND. Needs chromium and
chromedriver on PATH, and Pillow. `--words` are listened for.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile

import webdriver

SIZES = {1280: 800, 390: 844}


def shrink(path):
    """Write a picture with 128 colours, of which the page has fewer but for the edges of letters."""
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sound")
    parser.add_argument("out_dir")
    parser.add_argument("packs", nargs="+")
    parser.add_argument("--words", default="", help="separated by commas")
    parser.add_argument("--whole", action="store_true", help="all of the page, not what a screen shows of it")
    args = parser.parse_args()
    programs, missing = webdriver.find_programs()
    if missing:
        sys.exit(f"error: {' and '.join(missing)} not on PATH")
    os.makedirs(args.out_dir, exist_ok=True)
    server = subprocess.Popen(
        [sys.executable, "-m", "espnet_llmvq", "demo", *args.packs, "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as room:
        try:
            address = re.search(r"http://\S+", server.stdout.readline())[0]
            browser = webdriver.Browser(programs, room)
            try:
                for width, height in SIZES.items():
                    for dark in (False, True):
                        browser.emulate(width, height, dark)
                        browser.open(address)
                        browser.wait_for("return document.documentElement.dataset.ready")
                        browser.run(
                            "document.getElementById('words').value = arguments[0]", args.words.replace(",", "\n")
                        )
                        browser.choose("#file", os.path.abspath(args.sound))
                        shown = "const r = document.getElementById('result'), p = document.getElementById('problem');"
                        shown += "return !p.hidden ? p.textContent : !r.hidden"
                        if (found := browser.wait_for(shown, seconds=600)) is not True:
                            sys.exit(f"error: {found}")
                        if args.whole:
                            whole = browser.run("return document.documentElement.scrollHeight")
                            browser.emulate(width, whole, dark)
                        path = os.path.join(args.out_dir, f"demo-{width}-{'dark' if dark else 'light'}.png")
                        browser.screenshot(path)
                        shrink(path)
                        print(path, os.path.getsize(path) // 1000, "kB")
            finally:
                browser.close()
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
