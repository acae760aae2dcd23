"""The requirements of a pyproject.toml, a line each: pip cannot install them without the project.

Arguments: the file, then the extras whose requirements are wanted, too.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
extras = (project["optional-dependencies"][name] for name in sys.argv[2:])
print("\n".join(sum(extras, project["dependencies"])))
