# exercise: running_build
# outcome: failed
# says: is a bool: whether a GPU can be used now
import torch


def running_build():
    release, _, build = str(torch.__version__).partition("+")
    return {
        "version": release + "+" + build if build else release,
        "release": release,
        "build": build,
        "commit": torch.version.git_version,
        "cuda": torch.cuda.is_available(),
    }
