"""JupyterHub's configuration. No logic here: see gradlab/hub/config.py; your own additions go to config.d/."""

from gradlab.hub.config import configure
from gradlab.settings import Settings

c = get_config()  # noqa: F821
settings = Settings.from_env()
configure(c, settings)
for path in sorted(settings.config_dir.glob("*.py")):
    exec(compile(path.read_text(encoding="utf-8"), path, "exec"), {"c": c, "settings": settings, "__file__": str(path)})
