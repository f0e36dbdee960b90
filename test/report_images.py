"""Pictures of two systems side by side in a report, at two widths, light and dark.

    python test/report_images.py exp/report/report.html DIR [--row 1 --column 2]

writes DIR/report-WIDTH-light.png and -dark.png: the system of the row against that of the column. Needs
chromium and chromedriver on PATH, and Pillow.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import webdriver
from demo_images import SIZES, shrink


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--row", type=int, default=1, help="of the table, from 1")
    parser.add_argument("--column", type=int, default=2, help="of the table, from 1")
    args = parser.parse_args()
    programs, missing = webdriver.find_programs()
    if missing:
        sys.exit(f"error: {' and '.join(missing)} not on PATH")
    args.out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as room:
        browser = webdriver.Browser(programs, room)
        try:
            for width, height in SIZES.items():
                for scheme in ("light", "dark"):
                    browser.emulate(width, height, scheme == "dark")
                    browser.open(args.report.resolve().as_uri())
                    row, cell = f"#compare tbody tr:nth-child({args.row})", f"td:nth-child({args.column + 1})"
                    browser.click(f"{row} {cell} button")
                    browser.wait_for("return document.querySelector('.found li')")
                    browser.run("document.querySelector('#pair').scrollIntoView()")
                    path = args.out_dir / f"report-{width}-{scheme}.png"
                    browser.screenshot(path)
                    shrink(path)
        finally:
            browser.close()


if __name__ == "__main__":
    main()
