# exercise: running_build
# outcome: failed
# says: running_build()['release'] is
import torch


def running_build():
    return {
        "version": str(torch.__version__),
        "release": str(torch.__version__),
        "build": "cpu",
        "commit": torch.version.git_version,
        "cuda": torch.version.cuda,
    }
