# exercise: running_build
# outcome: failed
# says: is no plain str. torch.__version__ is a TorchVersion
import torch


def running_build():
    release, _, build = torch.__version__.partition("+")
    return {
        "version": torch.__version__,
        "release": release,
        "build": build,
        "commit": torch.version.git_version,
        "cuda": torch.version.cuda,
    }
