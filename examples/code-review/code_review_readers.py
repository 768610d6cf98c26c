"""Read one file of a change, line by line, and say what is wrong. Without a model they know a few patterns."""

from __future__ import annotations

import re
from typing import Any

from code_review_lines import ADDED

_RISKS = {
    r"\b(eval|exec)\(": "runs text as code: parse it instead",
    r"shell\s*=\s*True": "runs a shell: give the command as a list",
    r"(?i)(password|secret|api_?key|token)\s*=\s*[\"'][^\"']{4,}": "a secret in the code: read it from the environment",
    r"\byaml\.load\((?!.*Loader)": "yaml.load runs what the file says: use yaml.safe_load",
    r"verify\s*=\s*False": "trusts every certificate: give the authority's",
    r"f\"(?:SELECT|INSERT|UPDATE|DELETE)\b": "SQL made of text: pass values as parameters",
}
_CARE = {
    r"except\s*:\s*$": "hides every error, also Ctrl-C: name what you expect",
    r"\bexcept Exception:\s*pass\b": "hides errors: log them, at least",
    r"\b(TODO|FIXME)\b": "is unfinished: finish it, or open an issue",
    r"def \w+\(.*=\s*(\[\]|\{\})": "one object for all calls: use None, and make it inside",
    r"\btime\.sleep\(": "waits for some time: wait for what you need",
}


class _Reader:
    patterns: dict[str, str]

    async def run(self, context: Any) -> str:
        # A reader that was rejected gets the reasons in its prompt, behind the same lines; it adds what it left out.
        cites = "was rejected" in context.prompt
        found = []
        for number, text in ADDED.findall(context.prompt):
            for pattern, advice in self.patterns.items():
                if re.search(pattern, text):
                    found.append(f"{number}: {advice}" + (f" [`{text.strip()}`]" if cites else ""))
        return "\n".join(found) or "none"


class Security(_Reader):
    """Looks for what an attacker could use."""

    patterns = _RISKS


class Care(_Reader):
    """Looks for what will cost somebody a night."""

    patterns = _CARE
