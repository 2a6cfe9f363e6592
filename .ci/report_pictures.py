"""Pictures of a report for the documentation: the upper part down to the table of AP, and the most confident error.

Needs Chromium. Those of docs/your_data.md are of the nuclei model that the page trains:

    python tools/analysis_tools/report.py CONFIG CHECKPOINT --out report.html
    python .ci/report_pictures.py report.html docs/images/report_summary.png docs/images/report_image.png
"""

import argparse
import base64
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tests'))
from support.browser import Browser


def capture(browser: Browser, width: int, bottom_of: str, out_file: Path, top_of: str | None = None) -> None:
    """Save the page in a window of a width, from the top of one element, or its own, to the bottom of another one."""
    browser.call('Emulation.setDeviceMetricsOverride', width=width, height=900, deviceScaleFactor=1, mobile=False)
    bounds = "document.querySelector('{}').getBoundingClientRect().{} + scrollY"
    top = browser.evaluate(bounds.format(top_of, 'top')) if top_of else 0
    # With a margin below.
    height = browser.evaluate(bounds.format(bottom_of, 'bottom')) - top + 12
    clip = dict(x=0, y=top, width=width, height=height, scale=1)
    picture = browser.call('Page.captureScreenshot', clip=clip, captureBeyondViewport=True)
    out_file.write_bytes(base64.b64decode(picture['data']))
    print(out_file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('report', type=Path, help='what report.py wrote')
    parser.add_argument('upper', type=Path, help='PNG of the upper part')
    parser.add_argument('image', type=Path, nargs='?', help='PNG of the most confident error')
    args = parser.parse_args()
    with Browser() as browser:
        browser.open(args.report.resolve().as_uri())
        browser.wait_for("document.readyState === 'complete' && document.querySelector('#accuracy-table') !== null")
        capture(browser, 1000, '#accuracy-table', args.upper)
        if args.image:
            # So wide that its three pictures stand in a row.
            capture(browser, 1240, '#confident ~ figure', args.image, top_of='#confident ~ figure')


if __name__ == '__main__':
    main()
