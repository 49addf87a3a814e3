"""Training: the loop, recipes, hardware, calibration, model files and run folders."""
