"""Makes a wheel with the binary: wheel.py BINARY VERSION PLATFORM OUT [--quick]. Prints its path.

A wheel is a zip file; what is in its `data/scripts` is installed among the programs (PEP 427).
"""

import base64
import hashlib
import pathlib
import sys
import zipfile

binary, version, platform, out, *more = sys.argv[1:]
here = pathlib.Path(__file__).parent
name = f"wfhost_cli-{version}"
tag = f"py3-none-{platform}"
metadata = f"""Metadata-Version: 2.4
Name: wfhost-cli
Version: {version}
Summary: wfhost, the host of durable workflows, as a binary
License-Expression: Apache-2.0 OR MIT
Requires-Python: >=3.8
Project-URL: Repository, https://github.com/wfhost/wfhost
Description-Content-Type: text/markdown

{(here / "README.md").read_text()}"""
files = {
    f"{name}.data/scripts/wfhost": pathlib.Path(binary).read_bytes(),
    f"{name}.dist-info/METADATA": metadata.encode(),
    f"{name}.dist-info/WHEEL": f"Wheel-Version: 1.0\nGenerator: wfhost\nRoot-Is-Purelib: false\nTag: {tag}\n".encode(),
}
for licence in ("LICENSE", "LICENSE-APACHE", "LICENSE-MIT"):
    files[f"{name}.dist-info/licenses/{licence}"] = (here.parent.parent / licence).read_bytes()

record = ""
for path, content in files.items():
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    record += f"{path},sha256={digest},{len(content)}\n"
files[f"{name}.dist-info/RECORD"] = (record + f"{name}.dist-info/RECORD,,\n").encode()

made = pathlib.Path(out) / f"{name}-{tag}.whl"
level = 1 if "--quick" in more else 9
with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as wheel:
    for path, content in files.items():
        # The same bytes give the same wheel.
        entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.external_attr = (0o100755 if path.endswith("scripts/wfhost") else 0o100644) << 16
        wheel.writestr(entry, content)
print(made)
