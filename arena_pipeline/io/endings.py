"""The names of image files, apart from what reads them, which takes a while to import."""

NIFTI = (".nii.gz", ".nii")
META = (".mha", ".mhd")
ITK = (".nrrd", *META)
IMAGES = NIFTI + ITK
