"""What finished runs have learnt, as pictures: attention, features, confusions, calibration, suspect labels."""
