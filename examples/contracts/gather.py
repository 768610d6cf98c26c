"""Prints text files as the JSON that the crew takes: [{"name": "office.txt", "text": "…"}, …].

python gather.py contracts/*.txt | watchbill run crew.yaml "…" --input contracts=@-
"""

import json
import sys
from pathlib import Path

files = [Path(name) for name in sys.argv[1:]]
if not files:
    sys.exit("Name the files: python gather.py contracts/*.txt")
print(json.dumps([{"name": file.name, "text": file.read_text(encoding="utf-8")} for file in files], ensure_ascii=False))
