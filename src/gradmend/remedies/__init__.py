"""One file per remedy: a pure function from Findings and Trace to Prescriptions."""
