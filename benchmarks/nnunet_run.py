"""nnU-Net's side of nnunet_few_shot.py, run by the Python of `make nnunet_env`: plans, trains on all cases of a dataset, predicts its imagesTs.

python nnunet_run.py FOLDER NUMBER ITERATIONS MEMORY_GB DEVICE
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

PROCESSES = "nnUNet_n_proc_DA"
EPOCH = 50  # iterations; after each the rate falls, as nnU-Net's schedule has it


def main(folder: Path, number: int, iterations: int, memory_gb: float, device_name: str) -> None:
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(folder / name)
    os.environ |= {"nnUNet_compile": "f", PROCESSES: "1", "nnUNet_def_n_proc": "1"}
    import torch
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, preprocess
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    device, raw = torch.device(device_name), folder / "raw" / f"Dataset{number:03d}_FewShot"
    extract_fingerprints([number], num_processes=1, check_dataset_integrity=False)
    planner = ExperimentPlanner(number, gpu_memory_target_in_gb=memory_gb)
    planner.plan_experiment()
    preprocess([number], planner.plans_identifier, configurations=("3d_fullres",), num_processes=(1,))
    preprocessed = folder / "preprocessed" / raw.name
    plans, content = (json.loads((preprocessed / name).read_text()) for name in (f"{planner.plans_identifier}.json", "dataset.json"))
    os.environ[PROCESSES] = "0"  # augmentation in this process: as many cores as the other side has
    trainer = nnUNetTrainer(plans | {"continue_training": False}, "3d_fullres", "all", content, device)
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = (
        max(1, iterations // EPOCH),
        min(EPOCH, iterations),
        1,
    )
    started = time.monotonic()
    trainer.run_training()
    seconds = time.monotonic() - started
    predictor = nnUNetPredictor(device=device, allow_tqdm=False, perform_everything_on_device=device.type == "cuda")
    predictor.initialize_from_trained_model_folder(str(Path(trainer.output_folder_base)), ("all",), "checkpoint_final.pth")
    images = sorted((raw / "imagesTs").glob("*.nii.gz"))
    for image in images:  # one after the other, in this process
        output = folder / "predictions" / image.name.replace("_0000.nii.gz", "")
        output.parent.mkdir(exist_ok=True)
        array, properties = predictor.plans_manager.image_reader_writer_class().read_images([str(image)])
        predictor.predict_single_npy_array(array, properties, None, str(output), False)
    configuration = plans["configurations"]["3d_fullres"]
    facts = {"patch_size": configuration["patch_size"], "batch_size": configuration["batch_size"], "spacing": configuration["spacing"]}
    (folder / "facts.json").write_text(json.dumps(facts | {"training_seconds": seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
