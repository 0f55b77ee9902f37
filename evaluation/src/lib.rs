//! Measures over judgments and runs, and the significance of their differences.
