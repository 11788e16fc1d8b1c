"""nnU-Net's side of benchmarks.nnunet, for the Python of `make nnunet_env`: nnunet_predictor.py MODEL_FOLDER CT SEGMENTATION [CT ...]

Prints, as JSON, seconds of the predictions and the peak memory of the process in bytes. One process, and no mirroring.
"""

import json
import os
import resource
import sys
import time


def main() -> None:
    os.environ |= {"nnUNet_compile": "f", **{f"nnUNet_{name}": "/nowhere" for name in ("raw", "preprocessed", "results")}}
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    folder, files = sys.argv[1], sys.argv[2:]
    predictor = nnUNetPredictor(tile_step_size=0.5, use_mirroring=False, device=torch.device("cpu"), verbose=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(folder, None)
    started = time.perf_counter()
    outputs = [name.removesuffix(".nii.gz") for name in files[1::2]]
    predictor.predict_from_files_sequential([[name] for name in files[::2]], outputs, overwrite=True)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(f"\n{json.dumps({'seconds': seconds, 'peak': peak})}\n")


if __name__ == "__main__":
    main()
